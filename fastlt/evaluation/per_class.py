"""The per-class table of a classifier, as CSV and JSON: images, accuracy, precision, norm of the weight vector."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..files import replacing, write_json
from ..metrics import class_hits, class_precision

# Shapes: N samples, C classes.


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """A class: training images, images in the split, accuracy and precision in percent, norm of its weight vector.

    `accuracy` is None for a class without images in the split, `precision` for one that is never predicted.
    """

    name: str
    train_count: int
    num_images: int
    accuracy: float | None
    precision: float | None
    weight_norm: float


COLUMNS = ("class", "train_count", "num_images", "accuracy", "precision", "weight_norm")


def class_rows(
    predictions: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    class_names: Sequence[str],
    class_counts: ArrayLike,
    norms: ArrayLike,
) -> list[ClassRow]:
    """Return a row for every class, in the order of the classes.

    Args:
        predictions: [N] predicted classes.
        labels: [N] true classes.
        class_names: C names.
        class_counts: [C] training images.
        norms: [C] norms of the classifier's weight vectors.
    """
    hits, totals = class_hits(predictions == labels, labels, len(class_names))
    precision = class_precision(predictions, labels, len(class_names))
    columns = zip(class_names, np.asarray(class_counts), hits, totals, precision, np.asarray(norms), strict=True)
    return [
        ClassRow(
            name=name,
            train_count=int(count),
            num_images=int(total),
            accuracy=100 * float(hit / total) if total else None,
            precision=None if np.isnan(share) else 100 * float(share),
            weight_norm=float(norm),
        )
        for name, count, hit, total, share, norm in columns
    ]


def write_class_table(folder: Path, split: str, rows: Sequence[ClassRow]) -> None:
    """Write `per_class.<split>.csv` and `.json` into a classifier's folder; None becomes empty or null."""
    values = [dict(zip(COLUMNS, asdict(row).values(), strict=True)) for row in rows]
    write_json(folder / f"per_class.{split}.json", {"schema": 1, "split": split, "classes": values})
    with (
        replacing(folder / f"per_class.{split}.csv") as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(values)
