"""The classes with the lowest accuracy, with mistaken images of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.image import decode_rgb
from ..evaluation.classifier import Classifier
from ..evaluation.predictions import Predictions
from ..features.store import FeatureStore

NUM_CLASSES = 12
NUM_IMAGES = 4  # per class
SIDE = 72  # pixels of a thumbnail
MAX_NAME = 40  # characters


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A thumbnail, base64 of a JPEG, and the name of the predicted class."""

    data: str
    predicted: str


@dataclass(frozen=True, kw_only=True)
class WorstClass:
    """A class with a low accuracy; accuracies in percent."""

    name: str
    num_train: int
    before: float
    after: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The worst classes, worst first, and a sentence on what is missing."""

    classes: tuple[WorstClass, ...]
    note: str


def worst_classes(
    store: FeatureStore, before: Classifier, after: Classifier | None, *, split: str, counts: NDArray[np.int64]
) -> Worst:
    """Return the classes with the lowest accuracy, after rebalancing if there is a rebalanced classifier.

    Args:
        store: The run's images and their classes.
        before: The joint classifier.
        after: The rebalanced one, or None.
        split: Where accuracies are taken.
        counts: [C] training images.
    """
    last = (after or before).predictions(split)
    old = before.predictions(split).class_accuracy(len(counts))
    new = last.class_accuracy(len(counts))
    mistaken = np.flatnonzero(new < 1)  # NaN, a class without images, is not below 1
    # Of two equally bad classes, the one that lost more comes first
    order = mistaken[np.lexsort((-old[mistaken], new[mistaken]))][:NUM_CLASSES]
    if not len(order):
        return Worst(classes=(), note=f"No class has an error on {split}.")
    names: Sequence[str] = store.run.data["class_names"]
    samples, note = thumbnails(store, split, last, order, names)
    rows = (
        WorstClass(
            name=shorten(names[index]),
            num_train=int(counts[index]),
            before=100 * float(old[index]),
            after=100 * float(new[index]),
            samples=tuple(samples.get(int(index), ())),
        )
        for index in order
    )
    return Worst(classes=tuple(rows), note=note)


def thumbnails(
    store: FeatureStore, split: str, predictions: Predictions, classes: NDArray[np.int64], names: Sequence[str]
) -> tuple[dict[int, list[Sample]], str]:
    """Return a few mistaken images of every class, and a sentence if they cannot be read."""
    try:
        dataset = store.splits[split]
    except (ValueError, OSError, KeyError):
        return {}, "The images are not where the run found them, so none are shown."
    samples: dict[int, list[Sample]] = {}
    seen = np.flatnonzero(np.isin(dataset.labels, predictions.labels))  # folds of train leave out single images
    num_lost = 0
    for index in classes:
        for image in np.flatnonzero((predictions.labels == index) & ~predictions.right)[:NUM_IMAGES]:
            try:
                data = thumbnail(decode_rgb(dataset.read(int(seen[image]))))
            except (ValueError, OSError):
                num_lost += 1
                continue
            predicted = shorten(names[predictions.classes[image]])
            samples.setdefault(int(index), []).append(Sample(data=data, predicted=predicted))
    return samples, f"{num_lost} images could not be read." if num_lost else ""


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """Return a small JPEG of an image, base64."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def shorten(name: str) -> str:
    """Return a class name that fits a line."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
