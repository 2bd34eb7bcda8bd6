"""Confidences that mean something: calibration error, and a temperature folded into the linear head."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models import LinearHead
from .predictions import Predictions, logit_chunks

# Shapes: N samples, C classes, D feature width.

NUM_BINS = 15
COLDEST, HOTTEST = 1e-3, 1e3  # temperatures searched
TOLERANCE = 1e-4  # of the temperature's logarithm


def calibration_error(
    confidences: NDArray[np.float64], correct: NDArray[np.bool_], *, num_bins: int = NUM_BINS
) -> float | None:
    """Return the expected calibration error, a fraction: mean |accuracy - confidence| over bins of equal mass.

    Samples are sorted by confidence and cut into bins of as equal size as can be (Nguyen and O'Connor, 2015), so that
    none is empty; equal confidences may fall into neighbouring bins.

    Args:
        confidences: [N] probabilities of the predicted classes.
        correct: [N] whether the prediction is right.
        num_bins: Bins, at most N are used.

    Returns:
        The error, or None without samples.
    """
    if not len(confidences):
        return None
    order = np.argsort(confidences, kind="stable")
    gap = confidences[order] - correct[order]
    bins = np.array_split(gap, min(num_bins, len(gap)))
    return float(sum(abs(part.sum()) for part in bins) / len(gap))


def calibration_errors(predictions: Predictions, groups: Mapping[str, NDArray[np.bool_]]) -> dict[str, float | None]:
    """Return the calibration error of all samples and, by their true class, of every shot group.

    Args:
        predictions: What a head says of N samples.
        groups: Named sets of classes, bool [C].

    Returns:
        `all` and the groups -> the error, a fraction; None for a group without samples.
    """
    correct, labels = predictions.right, predictions.labels
    chosen = {"all": np.ones(len(labels), dtype=np.bool_)} | {name: mask[labels] for name, mask in groups.items()}
    return {name: calibration_error(predictions.confidences[rows], correct[rows]) for name, rows in chosen.items()}


@torch.inference_mode()
def fit_temperature(head: LinearHead, features: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> float:
    """Return the temperature T > 0 at which softmax(z / T) has the least negative log likelihood (Guo et al., 2017).

    In beta = 1 / T the loss is convex: Newton's method finds the zero of its slope, and a step that leaves the bracket
    is replaced by the bracket's geometric middle. It is searched from 1e-3 to 1e3; a head that is right on every sample
    would go to 0 and ends there. Every step is one pass over the samples.

    Args:
        head: The classifier, [C, D].
        features: [N, D], on the head's device.
        labels: [N].
        weights: [N] weights of the samples; by default every class weighs the same, as the rebalanced head is for
            balanced data.

    Raises:
        ValueError: There are no samples, or a logit is not finite.
    """
    if not len(labels):
        raise ValueError("labels: got no samples; a temperature needs at least one")
    if weights is None:
        counts = torch.bincount(labels, minlength=head.num_classes)
        weights = 1 / counts[labels].double()
    weights = weights.double() / weights.double().sum()

    def slopes(beta: float) -> tuple[float, float]:
        """Return the first two derivatives of the loss: E[z] - z_y and Var[z] under softmax(beta z), averaged."""
        first = second = 0.0
        for rows, logits in logit_chunks(head, features):
            shares = (logits * beta).softmax(1)
            means = (shares * logits).sum(1, keepdim=True)
            spread = (shares * (logits - means).square()).sum(1)
            own = logits.gather(1, labels[rows, None])
            first += float((weights[rows] * (means - own).squeeze(1)).sum())
            second += float((weights[rows] * spread).sum())
        return first, second

    low, high = 1 / HOTTEST, 1 / COLDEST
    beta = 1.0
    while True:
        slope, curvature = slopes(beta)
        if not math.isfinite(slope):
            raise ValueError("features: the classifier's logits are not finite; no temperature can be fitted")
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else math.inf
        chosen = step if low < step < high else math.sqrt(low * high)
        if abs(math.log(chosen / beta)) < TOLERANCE or high / low < 1 + TOLERANCE:
            return 1 / chosen
        beta = chosen


def with_temperature(head: LinearHead, temperature: float) -> LinearHead:
    """Return the head with weight and bias divided by a temperature; its predictions stay, its confidences change.

    Raises:
        ValueError: The temperature is not a finite number above 0.
    """
    if not math.isfinite(temperature) or temperature <= 0:
        raise ValueError(f"temperature: got {temperature}; expected a finite number above 0")
    bias = None if head.bias is None else head.bias.detach() / temperature
    return LinearHead(head.weight.detach() / temperature, bias)
