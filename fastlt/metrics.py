"""Accuracy as the field reports it: all, many, medium, few, with 95 % intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Shapes: N samples, C classes, R bootstrap resamples.

MANY, FEW = 100, 20
Z95 = 1.959963984540054  # 97.5 % point of the normal distribution


@dataclass(frozen=True, kw_only=True)
class ShotAccuracy:
    """Accuracies as fractions; None for a group without a class that has samples."""

    many: float | None
    medium: float | None
    few: float | None
    class_mean: float
    all: float


def shot_groups(class_counts: ArrayLike, many: int = MANY, few: int = FEW) -> dict[str, NDArray[np.bool_]]:
    """Split classes by their number of training images: many > ``many``, few < ``few``, medium between (both included).

    Args:
        class_counts: [C] training images of every class.
        many: A class with more images than this has many shots.
        few: A class with fewer images than this has few shots.

    Returns:
        {"many", "medium", "few"} -> boolean masks [C].
    """
    if few > many + 1:
        raise ValueError(f"few: got {few} with many={many}; the groups overlap: expected few <= many + 1")
    counts = np.asarray(class_counts)
    return {"many": counts > many, "medium": (counts >= few) & (counts <= many), "few": counts < few}


def class_hits(correct: ArrayLike, labels: ArrayLike, num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count correct samples and samples of every class.

    Args:
        correct: bool [N].
        labels: int [N] in 0 .. C-1.
        num_classes: C.

    Returns:
        (hits [C], totals [C]).
    """
    hit, label = np.asarray(correct, dtype=bool), np.asarray(labels, dtype=np.int64)
    if hit.shape != label.shape or label.ndim != 1:
        raise ValueError(f"correct, labels: got shapes {hit.shape} and {label.shape}; expected one [N] each")
    if label.size == 0:
        raise ValueError("labels: got no samples; expected at least one")
    if label.min() < 0 or label.max() >= num_classes:
        raise ValueError(f"labels: got values from {label.min()} to {label.max()}; expected 0 to {num_classes - 1}")
    totals = np.bincount(label, minlength=num_classes)
    return np.bincount(label[hit], minlength=num_classes), totals


def shot_accuracy(
    predictions: ArrayLike, labels: ArrayLike, class_counts: ArrayLike, many: int = MANY, few: int = FEW
) -> ShotAccuracy:
    """Top-1 accuracy over all samples, and as means of class accuracies over all classes and each shot group.

    Args:
        predictions: int [N].
        labels: int [N].
        class_counts: [C] *training* images of every class, which decide its group.
        many: A class with more images than this has many shots.
        few: A class with fewer images than this has few shots.

    Returns:
        Fractions; a group none of whose classes has a sample is None.
    """
    counts = np.asarray(class_counts)
    correct = np.asarray(predictions) == np.asarray(labels)
    hits, totals = class_hits(correct, labels, len(counts))
    seen = totals > 0
    accuracy = hits / np.maximum(totals, 1)

    def mean(mask: NDArray[np.bool_]) -> float | None:
        return float(accuracy[mask & seen].mean()) if (mask & seen).any() else None

    groups = {name: mean(mask) for name, mask in shot_groups(counts, many, few).items()}
    return ShotAccuracy(**groups, class_mean=float(accuracy[seen].mean()), all=float(correct.mean()))


def wilson_interval(num_hits: int, num_samples: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, 1927), as fractions."""
    if num_samples < 1 or not 0 <= num_hits <= num_samples:
        raise ValueError(f"num_hits: got {num_hits} of {num_samples}; expected 0 <= hits <= samples, samples >= 1")
    p, z2 = num_hits / num_samples, Z95 * Z95
    centre = p + z2 / (2 * num_samples)
    half = Z95 * math.sqrt(p * (1 - p) / num_samples + z2 / (4 * num_samples * num_samples))
    scale = 1 + z2 / num_samples
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def class_mean_intervals(
    hits: NDArray[np.int64],
    totals: NDArray[np.int64],
    masks: dict[str, NDArray[np.bool_]],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of means of class accuracies, by the bootstrap stratified by class.

    Drawing n_c samples of a class with replacement gives Binomial(n_c, hits_c / n_c) hits, so no sample is ever drawn.

    Args:
        hits: [C] correct samples of every class.
        totals: [C] samples of every class.
        masks: Named sets of classes, bool [C].
        num_resamples: R.
        seed: Seed of the resampling.

    Returns:
        Name -> (low, high) as fractions, or None for a set none of whose classes has a sample.
    """
    rng = np.random.default_rng(seed)
    seen = np.flatnonzero(totals)
    resampled = rng.binomial(totals[seen], hits[seen] / totals[seen], size=(num_resamples, len(seen))) / totals[seen]

    def interval(mask: NDArray[np.bool_]) -> tuple[float, float] | None:
        chosen = mask[seen]
        if not chosen.any():
            return None
        low, high = np.quantile(resampled[:, chosen].mean(1), [0.025, 0.975])
        return float(low), float(high)

    return {name: interval(mask) for name, mask in masks.items()}
