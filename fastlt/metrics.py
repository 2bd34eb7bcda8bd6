"""Accuracy as the field reports it: all, many, medium, few, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .config import SHOT_GROUPS

# Shapes: N samples, C classes, R bootstrap resamples.

MANY, FEW = 100, 20
BLOCK = 1 << 22  # resampled class accuracies held at a time
Z95 = 1.959963984540054  # 97.5 % point of the normal distribution


@dataclass(frozen=True, kw_only=True)
class ShotAccuracy:
    """Accuracies as fractions; None for a group none of whose classes has samples."""

    many: float | None
    medium: float | None
    few: float | None
    class_mean: float
    all: float


def shot_groups(class_counts: ArrayLike, many: int = MANY, few: int = FEW) -> dict[str, NDArray[np.bool_]]:
    """Split classes by their number of training images: many > `many`, few < `few`, medium between (both included).

    Args:
        class_counts: [C] training images of every class.
        many: A class with more images than this has many shots.
        few: A class with fewer images than this has few shots.

    Returns:
        {"many", "medium", "few"} -> boolean masks [C].

    Raises:
        ValueError: The groups overlap: few > many + 1.

    Example:
        >>> from fastlt.metrics import shot_groups
        >>> {name: mask.tolist() for name, mask in shot_groups([500, 100, 19]).items()}
        {'many': [True, False, False], 'medium': [False, True, False], 'few': [False, False, True]}
    """
    if few > many + 1:
        raise ValueError(f"few: got {few} with many={many}; expected at most many + 1, as the groups overlap")
    counts = np.asarray(class_counts)
    masks = counts > many, (counts >= few) & (counts <= many), counts < few
    return dict(zip(SHOT_GROUPS, masks, strict=True))


def class_hits(correct: ArrayLike, labels: ArrayLike, num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count correct samples and samples of every class.

    Args:
        correct: bool [N].
        labels: Integers [N] from 0 to C - 1.
        num_classes: C.

    Returns:
        (hits [C], totals [C]).

    Raises:
        ValueError: The shapes differ, there is no sample, or a label is out of range.
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
    """Return the top-1 accuracy over all samples, and means of class accuracies over all classes and each shot group.

    The groups are those of Liu et al. (2019): classes by their number of training images.

    Args:
        predictions: int [N].
        labels: int [N] in 0 .. C-1.
        class_counts: [C] training images of every class, which decide its group.
        many: A class with more images than this has many shots.
        few: A class with fewer images than this has few shots.

    Returns:
        Fractions; a group none of whose classes has a sample is None.

    Raises:
        ValueError: The shapes differ, there is no sample, a label is out of range, or few > many + 1.

    Example:
        >>> from fastlt.metrics import shot_accuracy
        >>> shot_accuracy([0, 1, 1, 2], [0, 1, 2, 2], class_counts=[200, 50, 5])
        ShotAccuracy(many=1.0, medium=1.0, few=0.5, class_mean=0.8333333333333334, all=0.75)
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
    """Return the 95 % score interval of a proportion (Wilson, 1927).

    Args:
        num_hits: Samples that count.
        num_samples: All samples, at least 1.

    Returns:
        (low, high), fractions.

    Raises:
        ValueError: There is no sample, or num_hits is not in 0 .. num_samples.

    Example:
        >>> from fastlt.metrics import wilson_interval
        >>> low, high = wilson_interval(44, 100)
        >>> round(low, 3), round(high, 3)
        (0.347, 0.538)
    """
    if num_samples < 1 or not 0 <= num_hits <= num_samples:
        raise ValueError(
            f"num_hits: got {num_hits} of {num_samples}; expected 0 to num_samples, num_samples at least 1"
        )
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
    """Return 95 % intervals of means of class accuracies, by the bootstrap stratified by class.

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


def weighted_class_accuracy(
    hits: NDArray[np.int64],
    totals: NDArray[np.int64],
    weights: ArrayLike,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, tuple[float, float]] | None:
    """Return the accuracy under given class frequencies, with its 95 % interval by the stratified bootstrap.

    Args:
        hits: [C] correct samples of every class.
        totals: [C] samples of every class.
        weights: [C] class frequencies; those of classes without samples are shared out among the others.
        num_resamples: R.
        seed: Seed of the resampling.

    Returns:
        (accuracy, its 95 % interval (low, high)) as fractions, or None if no class with samples has weight.
    """
    seen = np.flatnonzero(totals)
    share = np.asarray(weights, dtype=np.float64)[seen]
    if not share.sum() > 0:
        return None
    share = share / share.sum()
    sizes, accuracy = totals[seen], hits[seen] / totals[seen]
    means = resampled_means(
        lambda rng, rows: rng.binomial(sizes, accuracy, size=(rows, len(seen))) / sizes,
        share[:, None],
        num_resamples=num_resamples,
        seed=seed,
    )
    low, high = np.quantile(means[:, 0], [0.025, 0.975])
    return float(accuracy @ share), (float(low), float(high))


def paired_difference(
    hits_a: ArrayLike,
    hits_b: ArrayLike,
    labels: ArrayLike,
    masks: Mapping[str, NDArray[np.bool_]],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, tuple[float, float]] | None]:
    """Return how much more often A is right than B on the same samples, with 95 % intervals by the paired bootstrap.

    The bootstrap is stratified by class. Of a class's n samples, A alone is right on some and B alone on others;
    drawing n of them with replacement gives multinomial counts of both, so that samples on which A and B agree add no
    noise, and no sample is ever drawn.

    Args:
        hits_a: bool [N], whether A is right.
        hits_b: bool [N], whether B is.
        labels: Integers [N] from 0 to C - 1.
        masks: Named sets of classes, bool [C], over which class differences are averaged.
        num_resamples: R.
        seed: Seed of the resampling.

    Returns:
        Name -> (A - B, its 95 % interval (low, high)) as fractions, None for a set without samples; under `all` the
        difference over samples.

    Raises:
        ValueError: The shapes differ, or a label is out of range.
    """
    a, b, label = np.asarray(hits_a, dtype=bool), np.asarray(hits_b, dtype=bool), np.asarray(labels, dtype=np.int64)
    if a.shape != b.shape:
        raise ValueError(f"hits_a, hits_b: got shapes {a.shape} and {b.shape}; expected the same samples")
    num_classes = len(next(iter(masks.values()))) if masks else int(label.max(initial=0)) + 1
    only_a, totals = class_hits(a & ~b, label, num_classes)
    only_b, _ = class_hits(b & ~a, label, num_classes)
    seen = np.flatnonzero(totals)
    sizes, plus, minus = totals[seen], only_a[seen], only_b[seen]
    first, rest = plus / sizes, minus / np.maximum(sizes - plus, 1)

    def draw(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
        gained = rng.binomial(sizes, first, size=(rows, len(seen)))
        change: NDArray[np.float64] = (gained - rng.binomial(sizes - gained, rest)) / sizes
        return change

    names = [name for name, mask in masks.items() if name != "all" and mask[seen].any()]
    columns = [masks[name][seen] / masks[name][seen].sum() for name in names] + [sizes / sizes.sum()]
    weights = np.stack(columns, axis=1)
    means = resampled_means(draw, weights, num_resamples=num_resamples, seed=seed)
    values = ((plus - minus) / sizes) @ weights
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    differences: dict[str, tuple[float, tuple[float, float]] | None] = dict.fromkeys(masks)
    for index, name in enumerate([*names, "all"]):
        differences[name] = (float(values[index]), (float(low[index]), float(high[index])))
    return differences


def resampled_means(
    draw: Callable[[np.random.Generator, int], NDArray[np.float64]],
    weights: NDArray[np.float64],
    *,
    num_resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return weighted means of resampled class values, computed for a block of resamples at a time.

    Args:
        draw: Takes a generator and a number of rows, gives values [rows, C].
        weights: [C, G], columns that sum to 1.
        num_resamples: R.
        seed: Seed of the generator.

    Returns:
        [R, G].
    """
    rng, rows = np.random.default_rng(seed), max(1, BLOCK // len(weights))
    sizes = [min(rows, num_resamples - start) for start in range(0, num_resamples, rows)]
    return np.concatenate([draw(rng, size) @ weights for size in sizes])


def class_precision(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.float64]:
    """Return the share of every class's predictions that are right.

    Args:
        predictions: int [N] in 0 .. C-1.
        labels: int [N] in 0 .. C-1.
        num_classes: C.

    Returns:
        Fractions [C]; NaN for a class that is never predicted.

    Raises:
        ValueError: The shapes differ, there is no sample, or a label is out of range.
    """
    predicted, label = np.asarray(predictions, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    hits, _ = class_hits(predicted == label, label, num_classes)
    times = np.bincount(predicted, minlength=num_classes)
    precision: NDArray[np.float64] = np.divide(hits, times, out=np.full(num_classes, np.nan), where=times > 0)
    return precision


def macro_f1(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> float:
    """Return the mean F1 score over the classes that have samples.

    Args:
        predictions: int [N] in 0 .. C-1.
        labels: int [N] in 0 .. C-1.
        num_classes: C.

    Returns:
        A fraction; a class that is never predicted scores 0.

    Raises:
        ValueError: The shapes differ, there is no sample, or a label is out of range.

    Example:
        >>> from fastlt.metrics import macro_f1
        >>> macro_f1([0, 0, 1], [0, 1, 1], num_classes=2)
        0.6666666666666666
    """
    predicted, label = np.asarray(predictions, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    hits, totals = class_hits(predicted == label, label, num_classes)
    seen = totals > 0
    times = np.bincount(predicted, minlength=num_classes)
    return float((2 * hits[seen] / (totals[seen] + times[seen])).mean())
