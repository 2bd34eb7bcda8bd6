"""Accuracy as the field reports it: all, many, medium, few; precision and F1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import SHOT_GROUPS

# Shapes: N samples, C classes.

MANY, FEW = 100, 20


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
        ValueError: The shapes differ, there is no sample, or a label is no class.
    """
    hit, label = np.asarray(correct, dtype=bool), whole_numbers(labels, "labels")
    if hit.shape != label.shape or label.ndim != 1:
        raise ValueError(f"correct, labels: got shapes {hit.shape} and {label.shape}; expected one [N] each")
    if label.size == 0:
        raise ValueError("labels: got no samples; expected at least one")
    if label.min() < 0 or label.max() >= num_classes:
        raise ValueError(f"labels: got values from {label.min()} to {label.max()}; expected 0 to {num_classes - 1}")
    totals = np.bincount(label, minlength=num_classes)
    return np.bincount(label[hit], minlength=num_classes), totals


def whole_numbers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Return values that are whole numbers as int64; `name` is what messages call them.

    Raises:
        ValueError: Some are not.
    """
    array = np.asarray(values)
    with np.errstate(invalid="ignore"):  # NaN, which equals no integer
        whole = array.astype(np.int64)
    if not np.array_equal(whole, array):
        raise ValueError(f"{name}: got {array.dtype} values that are not whole numbers; expected classes from 0 up")
    return whole


def predictions_and_labels(predictions: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return predicted and true classes as int64.

    Raises:
        ValueError: They are not whole numbers, or the shapes differ.
    """
    predicted, label = whole_numbers(predictions, "predictions"), whole_numbers(labels, "labels")
    if predicted.shape != label.shape:
        raise ValueError(f"predictions, labels: got shapes {predicted.shape} and {label.shape}; expected one [N] each")
    return predicted, label


def times_predicted(predictions: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Return how often every class is predicted, [C].

    Raises:
        ValueError: A prediction is no class.
    """
    if predictions.min() < 0 or predictions.max() >= num_classes:
        raise ValueError(
            f"predictions: got values from {predictions.min()} to {predictions.max()}; expected 0 to {num_classes - 1}"
        )
    return np.bincount(predictions, minlength=num_classes)


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
        ValueError: The shapes differ, there is no sample, a label is no class, or few > many + 1.

    Example:
        >>> from fastlt.metrics import shot_accuracy
        >>> shot_accuracy([0, 1, 1, 2], [0, 1, 2, 2], class_counts=[200, 50, 5])
        ShotAccuracy(many=1.0, medium=1.0, few=0.5, class_mean=0.8333333333333334, all=0.75)
    """
    counts = np.asarray(class_counts)
    predicted, label = predictions_and_labels(predictions, labels)
    correct = predicted == label
    hits, totals = class_hits(correct, label, len(counts))
    seen = totals > 0
    accuracy = hits / np.maximum(totals, 1)

    def mean(mask: NDArray[np.bool_]) -> float | None:
        return float(accuracy[mask & seen].mean()) if (mask & seen).any() else None

    groups = {name: mean(mask) for name, mask in shot_groups(counts, many, few).items()}
    return ShotAccuracy(**groups, class_mean=float(accuracy[seen].mean()), all=float(correct.mean()))


def class_precision(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.float64]:
    """Return the share of every class's predictions that are right.

    Args:
        predictions: int [N] in 0 .. C-1.
        labels: int [N] in 0 .. C-1.
        num_classes: C.

    Returns:
        Fractions [C]; NaN for a class that is never predicted.

    Raises:
        ValueError: The shapes differ, there is no sample, or a label or prediction is no class.
    """
    predicted, label = predictions_and_labels(predictions, labels)
    hits, _ = class_hits(predicted == label, label, num_classes)
    times = times_predicted(predicted, num_classes)
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
        ValueError: The shapes differ, there is no sample, or a label or prediction is no class.

    Example:
        >>> from fastlt.metrics import macro_f1
        >>> macro_f1([0, 0, 1], [0, 1, 1], num_classes=2)
        0.6666666666666666
    """
    predicted, label = predictions_and_labels(predictions, labels)
    hits, totals = class_hits(predicted == label, label, num_classes)
    seen = totals > 0
    times = times_predicted(predicted, num_classes)
    return float((2 * hits[seen] / (totals[seen] + times[seen])).mean())
