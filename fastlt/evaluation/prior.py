"""The deployment dial: adjust a head to the class frequencies of where it will be used, known or estimated."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..data.dataset import LongTailedDataset
from ..data.unlabelled import unlabelled_images
from ..features.arrays import check_finite
from ..features.store import FeatureStore
from ..models import LinearHead
from ..runtime.device import exact_fp32
from ..runtime.log import log
from .predictions import logit_chunks

# Shapes: N images, C classes, D feature width.

ESTIMATE = "estimate:"

NEVER = -30.0  # added log prior of a class that the target says never comes: e^-30, and logits stay finite
EM_STEPS, EM_TOLERANCE = 1000, 1e-7


def parse_target(spec: str, class_names: Sequence[str], class_counts: ArrayLike) -> NDArray[np.float64]:
    """Return the class frequencies that a `--target` names, [C], summing to 1.

    Args:
        spec: `uniform`, `train`, or the path of a CSV file with the columns class and frequency, one row for each
            class; frequencies may be counts.
        class_names: The classes, C of them.
        class_counts: [C] training images of every class.

    Raises:
        ValueError, FileNotFoundError: The file is absent, or a row is wrong; the message names it.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    if spec == "uniform":
        return np.full(len(counts), 1 / len(counts))
    if spec == "train":
        share: NDArray[np.float64] = counts / counts.sum()
        return share
    return read_frequencies(Path(spec), class_names)


def read_frequencies(path: Path, class_names: Sequence[str]) -> NDArray[np.float64]:
    """Read the frequency of every class from a CSV file, scaled to sum to 1."""
    if not path.is_file():
        raise FileNotFoundError(f"--target: got {path}, which is no file; expected uniform, train or FILE.csv")
    places = {name: index for index, name in enumerate(class_names)}
    found = np.full(len(class_names), math.nan)
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, row in enumerate(csv.reader(file), 1):
            where = f"--target: {path}, line {number}"
            cells = [cell.strip() for cell in row]
            if not any(cells) or (number == 1 and cells[-1].lower() == "frequency"):
                continue
            if len(cells) != 2:
                raise ValueError(f"{where}: got {len(cells)} columns; expected class,frequency")
            name, text = cells
            if name not in places:
                raise ValueError(f"{where}: {name!r} is none of the {len(places)} classes")
            if not math.isnan(found[places[name]]):
                raise ValueError(f"{where}: class {name!r} is there twice")
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{where}: got {text!r}; expected a frequency from 0 up")
            found[places[name]] = value
    missing = np.flatnonzero(np.isnan(found))
    if len(missing):
        raise ValueError(
            f"--target: {path} lacks {len(missing)} of {len(places)} classes, first {class_names[missing[0]]!r}; "
            "give every class a row (0 for one that never comes)"
        )
    if found.sum() <= 0:
        raise ValueError(f"--target: every frequency in {path} is 0; expected some above it")
    share: NDArray[np.float64] = found / found.sum()
    return share


def adjust_to_prior(head: LinearHead, target: ArrayLike, source: ArrayLike) -> LinearHead:
    """Return the head with log(target) - log(source) added to its bias: Bayes' rule for changed class frequencies.

    Args:
        head: The classifier, whose probabilities hold under `source`.
        target: [C] class frequencies where it will be used; a class with 0 gets a bias of -30.
        source: [C] class frequencies under which it is calibrated, positive: uniform for a rebalanced head.

    Raises:
        ValueError: There are not C frequencies, or one is negative, NaN or (source) zero.
    """
    wanted, known = (np.asarray(each, dtype=np.float64) for each in (target, source))
    for name, values, low in (("target", wanted, 0.0), ("source", known, np.finfo(float).tiny)):
        if values.shape != (head.num_classes,):
            raise ValueError(f"{name}: got shape {list(values.shape)}; expected [{head.num_classes}]")
        if not (values >= low).all() or not math.isfinite(values.sum()) or values.sum() <= 0:
            raise ValueError(f"{name}: expected frequencies {'above' if low else 'from'} 0 that are finite")
    ratio = wanted / wanted.sum() / (known / known.sum())
    shift = np.log(np.maximum(ratio, math.exp(NEVER)))
    bias = torch.zeros(head.num_classes) if head.bias is None else head.bias.detach()
    moved = bias.double().cpu() + torch.from_numpy(shift)
    return LinearHead(head.weight.detach().clone(), moved.to(head.weight))


@torch.inference_mode()
def log_probabilities(head: LinearHead, features: Tensor) -> Tensor:
    """Return log softmax of the head's logits, float64 [N, C], on the CPU."""
    return torch.cat([logits.log_softmax(1).cpu() for _, logits in logit_chunks(head, features)])


def estimate_prior(log_probabilities: Tensor, source: ArrayLike) -> NDArray[np.float64]:
    """Estimate the class frequencies of unlabelled images from a head's probabilities (Saerens et al., 2002).

    Expectation maximisation: weigh each image's probabilities by the present estimate over `source`, average, repeat.
    It finds the maximum of the likelihood, and asks for calibrated probabilities.

    Args:
        log_probabilities: [N, C] under `source`.
        source: [C] class frequencies under which the head is calibrated.

    Returns:
        [C], summing to 1.

    Raises:
        ValueError: There are no images, or probabilities are not finite.
    """
    if log_probabilities.ndim != 2 or not len(log_probabilities):
        raise ValueError(f"log_probabilities: got shape {list(log_probabilities.shape)}; expected [N, C], N at least 1")
    if torch.isnan(log_probabilities).any():
        raise ValueError("log_probabilities: some are NaN; expected log probabilities")
    known = np.asarray(source, dtype=np.float64)
    log_source = torch.from_numpy(np.log(known / known.sum()))
    log_ratio = log_probabilities.double() - log_source
    estimate = torch.full_like(log_source, 1 / len(log_source))
    for _ in range(EM_STEPS):
        posterior = (log_ratio + estimate.clamp(min=1e-300).log()).softmax(1)
        previous, estimate = estimate, posterior.mean(0)
        if float((estimate - previous).abs().sum()) < EM_TOLERANCE:
            break
    else:
        log.warning("--target: the estimate of the class frequencies moved still after %d steps", EM_STEPS)
    result: NDArray[np.float64] = estimate.numpy()
    return result


def source_prior(class_counts: ArrayLike, *, sampling: str, loss: str = "cross_entropy") -> NDArray[np.float64]:
    """Return the class frequencies under which the head of stage 1 is calibrated, [C].

    They are those in which its sampling showed the classes; a progressively balanced one ends class-balanced. Balanced
    softmax takes them out again.

    Args:
        class_counts: [C] training images of every class.
        sampling: Stage 1's sampling.
        loss: Stage 1's loss.
    """
    power = {"instance_balanced": 1.0, "square_root": 0.5}.get(sampling, 0.0)
    if loss == "balanced_softmax":
        power = 0.0
    shown = np.asarray(class_counts, dtype=np.float64) ** power
    share: NDArray[np.float64] = shown / shown.sum()
    return share


def read_target(
    spec: str, *, class_names: Sequence[str], class_counts: ArrayLike
) -> NDArray[np.float64] | LongTailedDataset:
    """Return the class frequencies that a `--target` names, [C], or the unlabelled images to estimate them from.

    Args:
        spec: As for `parse_target`, or `estimate:DIR`, the images below a folder.
        class_names: C names.
        class_counts: [C] training images of every class.

    Raises:
        ValueError, FileNotFoundError: The target does not fit, or there are no images.
    """
    if spec.startswith(ESTIMATE):
        return unlabelled_images([folder_of(spec)], class_names, flag="--target")
    return parse_target(spec, class_names, class_counts)


def resolve_target(
    target: NDArray[np.float64] | LongTailedDataset,
    head: LinearHead,
    *,
    source: ArrayLike,
    features: Callable[[LongTailedDataset], Tensor],
) -> NDArray[np.float64]:
    """Return a target's class frequencies, [C]: as they were given, or estimated from its unlabelled images.

    Args:
        target: What `read_target` returned.
        head: The classifier that estimates, calibrated under `source`.
        source: [C] class frequencies under which the head is calibrated.
        features: Gives the features [N, D] of images, on the head's device.

    Raises:
        ValueError: An image or its features cannot be used.
    """
    if not isinstance(target, LongTailedDataset):
        return target
    return estimate_prior(log_probabilities(head, features(target)), source)


def folder_of(spec: str) -> Path:
    """Return DIR of `estimate:DIR`."""
    folder = Path(spec.removeprefix(ESTIMATE))
    if spec == ESTIMATE:
        raise ValueError(f"--target: got {spec} without a folder; expected {ESTIMATE}DIR")
    if not folder.is_dir():
        raise FileNotFoundError(f"--target: got {spec}, which is no folder; expected one of images")
    return folder


@torch.inference_mode()
def unlabelled_features(store: FeatureStore, images: LongTailedDataset) -> Tensor:
    """Return the features [N, D] of a target's images under a run's backbone; they are not kept.

    Raises:
        ValueError: Features are not finite.
    """
    with exact_fp32(store.device), contextlib.closing(store.open_images(images)) as loader:
        features = torch.cat(list(store.through_backbone(loader)))
    check_finite(features, f"--target: {images.root}")
    return features
