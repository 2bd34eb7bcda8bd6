"""Calibration: the expected calibration error, and a temperature folded into the linear head."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import class_hits, mean_interval
from ..models import LinearHead
from ..runtime.log import log
from .predictions import Predictions, logit_chunks, predict

# Shapes: N samples, C classes, D feature width.

NUM_BINS = 15
COLDEST, HOTTEST = 1e-3, 1e3  # temperatures searched, times the spread of an image's logits
ROUGH = 0.1  # half the width of the accuracy's interval from which a temperature is a guess
TOLERANCE = 1e-4  # of the temperature's logarithm


def calibration_error(
    confidences: NDArray[np.float64], correct: NDArray[np.bool_], *, num_bins: int = NUM_BINS
) -> float | None:
    """Return the expected calibration error, a fraction: mean |accuracy - confidence| over bins of equal mass.

    Samples are sorted by confidence and cut into bins whose sizes differ by one at most (Nguyen and O'Connor, 2015), so
    none is empty; equal confidences may fall into neighbouring bins.

    Args:
        confidences: [N] probabilities of the predicted classes.
        correct: [N] whether the prediction is right.
        num_bins: Bins; at most N are used.

    Returns:
        The error, or None without samples.
    """
    if not len(confidences):
        return None
    gaps = confidences - correct
    return float(sum(abs(gaps[rows].sum()) for rows in confidence_bins(confidences, num_bins)) / len(gaps))


def confidence_bins(confidences: NDArray[np.float64], num_bins: int = NUM_BINS) -> list[NDArray[np.int64]]:
    """Return the samples of each bin of equal mass, from the lowest confidences up; at most one bin per sample."""
    return np.array_split(np.argsort(confidences, kind="stable"), min(num_bins, len(confidences)))


def calibration_errors(predictions: Predictions, groups: Mapping[str, NDArray[np.bool_]]) -> dict[str, float | None]:
    """Return the calibration error of all samples and, by their true class, of every shot group.

    Args:
        predictions: Predictions of N samples.
        groups: Named sets of classes, bool [C].

    Returns:
        `all` and the groups -> the error, a fraction; None for a group without samples.
    """
    correct, labels = predictions.right, predictions.labels
    samples = {"all": np.ones(len(labels), dtype=np.bool_)} | {name: mask[labels] for name, mask in groups.items()}
    return {name: calibration_error(predictions.confidences[rows], correct[rows]) for name, rows in samples.items()}


@torch.inference_mode()
def fit_temperature(head: LinearHead, features: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> float:
    """Return the temperature T > 0 at which softmax(z / T) has the least negative log likelihood (Guo et al., 2017).

    Where all of a few samples are right, the likelihood alone knows no end of confidence. So of n samples' labels a
    share of 1 / (n + 2) is spread over all classes, as in Platt's scaling (1999), which hardly changes the fit to many.

    In beta = 1 / T the loss is convex: Newton's method finds the zero of its slope, and a step that leaves the bracket
    is replaced by the bracket's geometric middle. T stays within 1e-3 to 1e3 times the mean standard deviation of a
    sample's logits. Every step is one pass over the samples.

    Args:
        head: The classifier, [C, D].
        features: [N, D], on the head's device.
        labels: [N].
        weights: [N] weights of the samples; by default every class weighs the same, since a rebalanced head is made
            for balanced data.

    Raises:
        ValueError: There are no samples, or a logit is not finite.
    """
    if not len(labels):
        raise ValueError("labels: got no samples; expected at least one to fit a temperature")
    if weights is None:
        counts = torch.bincount(labels, minlength=head.num_classes)
        weights = 1 / counts[labels].double()
    weights = weights.double() / weights.double().sum()

    spread_out = 1 / (1 / float(weights.square().sum()) + 2)

    def slopes(beta: float) -> tuple[float, float]:
        """Return the first two derivatives of the loss: E[z] less the label's z and Var[z] under softmax(beta z)."""
        first = second = 0.0
        for rows, logits in logit_chunks(head, features):
            shares = (logits * beta).softmax(1)
            means = (shares * logits).sum(1, keepdim=True)
            spread = (shares * (logits - means).square()).sum(1)
            label_logits = logits.gather(1, labels[rows, None]).lerp(logits.mean(1, keepdim=True), spread_out)
            first += float((weights[rows] * (means - label_logits).squeeze(1)).sum())
            second += float((weights[rows] * spread).sum())
        return first, second

    beta = 1 / spread_of(head, features)
    low, high = beta / HOTTEST, beta / COLDEST
    while True:
        slope, curvature = slopes(beta)
        if not math.isfinite(slope):
            raise ValueError("features: got logits that are not finite; expected finite ones to fit a temperature")
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else math.inf
        step = step if low < step < high else math.sqrt(low * high)
        if abs(math.log(step / beta)) < TOLERANCE or high / low < 1 + TOLERANCE:
            return 1 / step
        beta = step


def spread_of(head: LinearHead, features: Tensor) -> float:
    """Return the mean standard deviation of a sample's logits; 1 if they are all equal, or not finite."""
    deviations = sum(float(logits.std(1, correction=0).sum()) for _, logits in logit_chunks(head, features))
    spread = deviations / len(features)
    return spread if spread > 0 and math.isfinite(spread) else 1.0


def warn_if_rough(head: LinearHead, features: Tensor, labels: Tensor, split: str) -> None:
    """Say so if a split is too small to tell how sure a classifier may be."""
    predictions = predict(head, features, labels)
    hits, totals = class_hits(predictions.right, predictions.labels, head.num_classes)
    ends = mean_interval(hits, totals, np.ones(head.num_classes))
    if ends is not None and (ends[1] - ends[0]) / 2 > ROUGH:
        log.warning(
            "temperature: %s has %d images, too few to tell how sure the classifier may be; its confidences are rough, "
            "its accuracies are not touched",
            split,
            len(labels),
        )


def with_temperature(head: LinearHead, temperature: float) -> LinearHead:
    """Return the head with weight and bias divided by a temperature; predictions stay the same, confidences change.

    Raises:
        ValueError: The temperature is not a finite number above 0.
    """
    if not math.isfinite(temperature) or temperature <= 0:
        raise ValueError(f"temperature: got {temperature}; expected a finite number above 0")
    bias = None if head.bias is None else head.bias.detach() / temperature
    return LinearHead(head.weight.detach() / temperature, bias)
