"""Whether the labels of other people's loaders mean the classes that a network's head means by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..checkpoints.class_order import sorted_orders
from ..data.layouts.listing import nfc
from ..runtime.log import name_some
from .class_order import is_lead

# Shapes: N images.

MAX_DEPTH = 8  # of data sets within data sets


def numbers_of(data: Any) -> dict[str, int]:
    """Return the number of each class name, where a loader's data set tells, as torchvision's ImageFolder does."""
    numbers: dict[str, int] = {}
    for part in numberings(data):
        numbers = part | numbers
    return numbers


def numberings(data: Any, depth: int = MAX_DEPTH) -> Iterator[dict[str, int]]:
    """Yield the numbers of the class names of every data set in a loader, a subset or a concatenation."""
    numbers, names = getattr(data, "class_to_idx", None), getattr(data, "classes", None)
    if isinstance(numbers, Mapping) and numbers:
        yield {nfc(str(name)): int(number) for name, number in numbers.items()}
    elif isinstance(names, (list, tuple)) and names:
        yield {nfc(str(name)): number for number, name in enumerate(names)}
    elif depth:
        inner = getattr(data, "datasets", None)
        for part in inner if isinstance(inner, (list, tuple)) else [getattr(data, "dataset", None)]:
            yield from numberings(part, depth - 1)


def check_names(model: nn.Module, train: Any, val: Any) -> None:
    """Raise a ValueError if train, val and the network give a class other numbers, where they name their classes."""
    known = numbers_of(train)
    check_parts(list(numberings(train)), known)
    labels = getattr(getattr(model, "config", None), "id2label", None)
    of_model = {nfc(str(name)): int(at) for at, name in labels.items()} if isinstance(labels, Mapping) else {}
    if not known.keys() & of_model.keys():
        of_model = {}  # names of another kind, such as LABEL_0
    for what, theirs in (*(("val", part) for part in numberings(val)), ("model", of_model)):
        wrong = [name for name in theirs if name in known and theirs[name] != known[name]]
        extra = [name for name in theirs if name not in known]
        if known and (wrong or extra):
            pairs = [f"{name} is {theirs[name]} there and {known[name]} in train" for name in wrong]
            pairs += [f"{name} is {theirs[name]} there and unknown in train" for name in extra]
            raise ValueError(
                f"{what}: got other numbers of {len(pairs)} of {len(theirs)} classes than in train "
                f"({name_some(pairs, 4)}); expected one number a class; give both data sets the class_to_idx of the "
                "network's training"
            )


def check_parts(parts: Sequence[Mapping[str, int]], known: Mapping[str, int]) -> None:
    """Raise a ValueError if the data sets of train give a class two numbers, or two classes one.

    Args:
        parts: The numbers of each. Two names of one data set may share a number.
        known: Those of all.
    """
    pairs = []
    for part in parts:
        names = {number: name for name, number in part.items()}
        pairs += [f"{name} is {part[name]} and {known[name]}" for name in part if part[name] != known[name]]
        for name, number in known.items():
            other = names.get(number, name)
            if name not in part and not any(each.get(name) == each.get(other) == number for each in parts):
                pairs.append(f"{number} is {other} and {name}")
    if pairs:
        raise ValueError(
            f"train: got data sets that number classes in two ways ({name_some(pairs, 4)}); expected one number a "
            "class; give all of them the class_to_idx of the network's training"
        )


def check_order(train: Any, predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
    """Raise a ValueError if class folders that are sorted in another usual way fit the network clearly better.

    Args:
        train: The training data; nothing is checked unless they name their classes.
        predictions: [N] what the network makes of them.
        labels: [N].
    """
    numbers = numbers_of(train)
    names = sorted(numbers, key=numbers.__getitem__)
    if [numbers[name] for name in names] != list(range(len(names))) or labels.max() >= len(names):
        return
    right = predictions == labels
    for way, order in sorted_orders(names).items():
        others = np.array(order.rows)[labels] == predictions
        if is_lead(int((others & ~right).sum()), int((right & ~others).sum())):
            raise ValueError(
                f"train: got labels of which the network predicts {right.mean():.1%}; with class folders sorted as "
                f"{way} does it would be {others.mean():.1%}; expected the numbers of the network's training; give a "
                f"data set whose class_to_idx has {way}'s order"
            )
