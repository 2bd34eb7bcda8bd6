"""Check a sampler's arguments: a sampling's name or power, class weights and labels."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _C
from ..files import read_array

SAMPLINGS = {"instance_balanced": 1.0, "class_balanced": 0.0, "square_root": 0.5, "progressively_balanced": None}
"""The named samplings and their powers q; progressively_balanced moves from 1 to 0."""


def effective_number_weights(class_counts: Sequence[int] | np.ndarray, *, beta: float = 0.9999) -> np.ndarray:
    """Return class weights that draw each sample in proportion to 1 / E_n, the effective number of its class's samples.

    Cui et al., CVPR 2019, equation 1: E_n = (1 - beta^n) / (1 - beta). A class then has the probability n_c / E_{n_c},
    divided by the sum over classes: beta = 0 is instance-balanced, beta -> 1 class-balanced. (The paper's weights for
    a loss are these divided by the class counts.)

    Args:
        class_counts: n_c, C numbers; an empty class gets weight 0.
        beta: In [0, 1).

    Returns:
        float64 [C], the classes' probabilities, for `LongTailSampler(..., class_weights=...)`.

    Raises:
        ValueError: beta is out of range, a count is negative or all are 0.

    Example:
        >>> from fastlt.data import effective_number_weights
        >>> effective_number_weights([90, 10], beta=0).round(2)
        array([0.9, 0.1])
        >>> effective_number_weights([90, 10], beta=0.99).round(2)
        array([0.59, 0.41])
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    if not 0 <= beta < 1:
        raise ValueError(f"beta: got {beta}; expected at least 0 and less than 1")
    if counts.ndim != 1 or not (counts >= 0).all() or not counts.any():
        raise ValueError(
            f"class_counts: got {counts.tolist()!r:.80}; expected one count a class, none negative and not all 0"
        )
    if beta > 0:
        effective = np.expm1(counts * math.log(beta)) / math.expm1(math.log(beta))
        weights = np.divide(counts, effective, out=np.zeros_like(counts), where=counts > 0)
    else:
        weights = counts
    return np.asarray(weights / weights.sum())


def check_whole(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """Return an integer argument as an int; raise a ValueError unless it is one from `least` to `most`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        bound = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name}: got {value!r}; expected an integer, {bound}")
    return number


def check_sampling(sampling: str | float, class_weights: Any) -> str | float | None:
    """Return the sampling's name or power, or None if class weights replace it."""
    if class_weights is not None:
        if sampling != "instance_balanced":
            raise ValueError(f"class_weights: got them with sampling={sampling!r}; give one of the two")
        return None
    if isinstance(sampling, str):
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling: got {sampling!r}; expected a power or one of {', '.join(SAMPLINGS)}")
        return sampling
    try:
        power = float(sampling)
    except (TypeError, ValueError):
        power = math.nan
    if not math.isfinite(power):
        raise ValueError(f"sampling: got {sampling!r}; expected a finite power or one of {', '.join(SAMPLINGS)}")
    return power


def check_samples_per_class(value: Any, *, sampling: str | float | None, replacement: bool, batch_size: int) -> int:
    """Return the number of consecutive draws of a class; more than 1 only if classes are drawn in cycles."""
    number = check_whole("samples_per_class", value, least=1, most=batch_size)
    if number > 1 and (replacement or sampling not in ("class_balanced", 0)):
        raise ValueError(
            f"samples_per_class: got {number} with sampling={sampling!r}, replacement={replacement}; expected 1; for "
            "more, choose class_balanced without replacement"
        )
    return number


def find_law(sampling: str | float | None, *, replacement: bool) -> _C.Law:
    """Return how a sampling draws classes and their samples."""
    power = SAMPLINGS.get(sampling, sampling) if isinstance(sampling, str) else sampling
    if sampling == "progressively_balanced":
        return _C.Law.mixture
    if power == 1:
        return _C.Law.uniform if replacement else _C.Law.epochs
    if power == 0:
        return _C.Law.classes if replacement else _C.Law.class_cycles
    return _C.Law.weighted


def power_weights(class_counts: np.ndarray, sampling: str | float | None) -> np.ndarray:
    """Return class counts [C] to a sampling's power, up to a factor: float64 [C]."""
    power = SAMPLINGS[sampling] if isinstance(sampling, str) else sampling
    assert power is not None
    if power == 0.5:  # the square root is rounded alike on all machines
        return np.asarray(np.sqrt(class_counts))
    reference = class_counts.max() if power > 0 else class_counts.min()  # keeps large powers finite
    return np.asarray((class_counts / reference) ** power)


def check_weights(class_weights: Sequence[float] | np.ndarray, num_classes: int) -> np.ndarray:
    """Return class weights as float64 [C]."""
    weights = np.array(class_weights, dtype=np.float64)
    if weights.shape != (num_classes,):
        raise ValueError(f"class_weights: got shape {list(weights.shape)}; expected one a class, [{num_classes}]")
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        c = int(wrong.argmax())
        raise ValueError(f"class_weights: got {weights[c]} for class {c}; expected finite numbers, none negative")
    if not weights.any():
        raise ValueError("class_weights: got 0 for every class; give those to draw a positive weight")
    return weights


def as_labels(labels: Any) -> np.ndarray:
    """Return labels of any kind as a contiguous one-dimensional array of integers, without a copy where possible."""
    if isinstance(labels, str | Path):
        labels = read_array(Path(labels), remedy="give a .npy file of integers", mmap_mode="r")
    if hasattr(labels, "detach"):  # a torch tensor, possibly on another device
        labels = labels.detach().cpu()
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"labels: got shape {list(array.shape)}; expected one label a sample, at least one")
    if array.dtype.kind not in "iu":
        raise ValueError(f"labels: got {array.dtype}; expected integers, the class of each sample from 0 to C - 1")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def count_classes(labels: np.ndarray, num_classes: int | None) -> int:
    """Return the number of classes, checked against the number of samples before anything of that size is allocated."""
    if num_classes is None:
        largest = int(labels.max())
        if largest < 0:
            raise ValueError(f"labels: got {largest} as the largest; expected 0 to C - 1")
        num_classes = largest + 1
    num_classes = check_whole("num_classes", num_classes, least=1)
    if num_classes > max(2 * len(labels), 2**20):
        raise ValueError(
            f"labels: got {len(labels)} samples of {num_classes} classes, which leave most of them empty; number the "
            "classes that have samples 0 to C - 1"
        )
    return num_classes


def find_weights(
    class_weights: Sequence[float] | np.ndarray | None,
    class_counts: np.ndarray,
    *,
    sampling: str | float | None,
    law: _C.Law,
) -> np.ndarray | None:
    """Return the class weights, by default those of a power; refuse empty classes that would be drawn."""
    weights = None
    if class_weights is not None:
        weights = check_weights(class_weights, len(class_counts))
    empty = class_counts == 0 if weights is None else (class_counts == 0) & (weights > 0)
    if empty.any():
        raise ValueError(
            f"labels: got no sample for {int(empty.sum())} of {len(class_counts)} classes, the first is class "
            f"{int(empty.argmax())}; number the classes that have samples 0 to C - 1, or leave the empty ones out "
            "with class_weights of 0"
        )
    if weights is None and law == _C.Law.weighted:
        weights = power_weights(class_counts, sampling)
    return weights


def find_ramp(num_steps: int | None, num_epochs: int | None, *, steps_per_epoch: int, by_step: bool) -> tuple[int, int]:
    """Return the number of steps between moves of the mixture, and of moves until it is class-balanced."""
    if num_steps is None:
        if num_epochs is None:
            raise ValueError(
                "num_epochs: got None with sampling='progressively_balanced', which moves over the whole training; "
                "give num_epochs or num_steps"
            )
        num_steps = num_epochs * steps_per_epoch
    if by_step:
        return 1, num_steps - 1
    if num_epochs is None:
        num_epochs = math.ceil(num_steps / steps_per_epoch)
    return steps_per_epoch, num_epochs - 1
