"""Detect a checkpoint that is read wrongly: its accuracy is near chance, due to one of two mistakes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Shapes: N images, C classes.

_DEVIATIONS = 3.0  # from this many standard errors on, it is more than luck
_MARGIN = 0.1  # the most by which a matching must beat luck, reached with few classes


class Suspicion(NamedTuple):
    """What is likely wrong with a checkpoint, and the numbers that show it, as fractions.

    `cause` is `class order` or `preprocessing`; `accuracy` is the accuracy on val, and `limit` the highest one that
    counts as guessing; `matched` is the share of images that another class order explains.
    """

    cause: str
    accuracy: float
    limit: float
    matched: float


def chance_limit(num_classes: int, num_images: int) -> float:
    """Return the highest accuracy at which a network counts as guessing.

    The limit is twice chance, or three standard errors above chance on a small val split; for two or three classes it
    is at most halfway from chance to 1.
    """
    chance = 1 / num_classes
    error = math.sqrt(chance * (1 - chance) / num_images)
    return min(chance + max(chance, _DEVIATIONS * error), (1 + chance) / 2)


def suspect(predictions: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> Suspicion | None:
    """Return what is likely wrong with a network that guesses or has another class order, or None.

    With another class order a good network still predicts one class for the images of a class, but the wrong one: a
    one-to-one matching of labels with predictions explains far more images than luck would. Wrong preprocessing, or
    another network's weights, leaves no such pattern. Two usual orders (numbers sorted as numbers and as text) agree in
    a few classes, so accuracy may be above chance: it is suspect too if it is below half of what a matching explains.

    Args:
        predictions: [N].
        labels: [N].
        num_classes: C.
    """
    accuracy, limit = float((predictions == labels).mean()), chance_limit(num_classes, len(labels))
    matched = matched_share(predictions, labels, num_classes)
    shuffled = np.random.default_rng(0).permutation(predictions)
    lucky = matched_share(shuffled, labels, num_classes)
    error = math.sqrt(max(lucky * (1 - lucky), 1 / len(labels)) / len(labels))
    ordered = matched > lucky + max(min(1 / num_classes, _MARGIN), _DEVIATIONS * error)
    if accuracy > limit and not (ordered and accuracy < (matched - lucky) / 2):
        return None
    return Suspicion("class order" if ordered else "preprocessing", accuracy, limit, matched)


def matched_share(predictions: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> float:
    """Return the share of images that a greedy one-to-one matching of labels with predictions explains."""
    cells, counts = np.unique(labels * num_classes + predictions, return_counts=True)
    rows, columns, total = set(), set(), 0
    for place in np.argsort(-counts, kind="stable"):
        row, column = divmod(int(cells[place]), num_classes)
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            total += int(counts[place])
    return total / len(labels)
