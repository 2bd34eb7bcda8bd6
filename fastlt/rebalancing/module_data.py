"""The images of `rebalance_model`: every one once, in order, whatever a loader's sampler would draw."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ..data.sampler import LongTailSampler
from ..features.arrays import Features
from ..runtime.log import log

BATCH_SIZE = 64  # of a data set that comes without a loader
REPEATED = 0.1  # share of the images, from which a list of batches is taken for draws


@dataclass(frozen=True)
class Source:
    """The batches of a split."""

    batches: Iterator[tuple[Any, Tensor]]
    """(images, labels [B])."""
    is_whole: bool
    """Whether they are known to hold every image once, so that their labels are those of the data set."""


def open_source(data: Any, what: str) -> Source:
    """Open a loader, a map-style data set, a list of batches, or another iterable of batches.

    Args:
        data: The images and labels. Of a loader or data set every image is taken once, in order: shuffling, weights,
            repetition and `drop_last` do not matter. A fixed choice of images, as by a SubsetRandomSampler, is kept.
        what: The split's name, for messages.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            return Source(_checked(data, what), is_whole=False)
        order = _order_of(data, what)
        expected = None if data.batch_sampler is None else len(order)  # else the data set makes whole batches
        return Source(_checked(_reordered(data, order), what, expected), is_whole=True)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping) and len(data):
        sample = data[0]
        if isinstance(sample, (tuple, list)) and len(sample) >= 2 and torch.as_tensor(sample[1]).ndim == 0:
            return open_source(DataLoader(data, batch_size=BATCH_SIZE), what)
    if not isinstance(data, Iterable):
        raise ValueError(
            f"{what}: got a {type(data).__name__}; expected a DataLoader, an iterable of (images, labels) batches, or "
            "a data set"
        )
    return Source(_checked(data, what), is_whole=isinstance(data, Sequence))


def tell_repeats(features: Features) -> None:
    """Warn if many features are equal: a list of batches then holds what a sampler drew, not the data set."""
    num_repeated = len(features) - len({hash(row.tobytes()) for row in features.features})
    if num_repeated > REPEATED * len(features):
        log.warning(
            "train: %d of %d images are repeated, as a sampler draws them, and class counts are of these draws; give "
            "the data set or its loader, or class_counts",
            num_repeated,
            len(features),
        )


def class_counts_of(
    labels: NDArray[np.int64], num_classes: int, given: ArrayLike | None, *, is_whole: bool
) -> NDArray[np.int64]:
    """Return the training images of every class, [C]: as given, else as counted.

    Raises:
        ValueError: The labels may be those of some of the images, or of repeated ones; or the given counts do not fit.
    """
    if given is None:
        if not is_whole:
            raise ValueError(
                "class_counts: got none, and training images from an iterable, which may repeat or leave out some; "
                f"expected the number of training images of each of the {num_classes} classes; give class_counts=, or "
                "the images as a DataLoader of a map-style data set, a data set or a list of batches"
            )
        return np.bincount(labels, minlength=num_classes).astype(np.int64)
    counts = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    fits = counts.shape == (num_classes,) and counts.dtype.kind in "iu"
    if not fits or not (counts >= 0).all() or not counts[labels].all():
        raise ValueError(
            f"class_counts: got {counts.tolist()!s:.80}; expected {num_classes} integers, the training images of each "
            "class, 0 only for those that train has none of"
        )
    return counts.astype(np.int64)


def _checked(batches: Iterable[Any], what: str, expected: int | None = None) -> Iterator[tuple[Any, Tensor]]:
    """Yield (images, labels [B]) of batches.

    Raises:
        ValueError: A batch has another form, or there are not as many images as expected.
    """
    number = 0
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise ValueError(f"{what}: got a batch that is a {type(batch).__name__}; expected (images, labels)")
        labels = torch.as_tensor(batch[1])
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(
                f"{what}: got labels {list(labels.shape)} of {labels.dtype}; expected integers, one an image: [B]"
            )
        number += len(labels)
        yield batch[0], labels
    if expected is not None and number != expected:
        raise ValueError(
            f"{what}: got {number} images from the loader; expected {expected}, each of its data set's once; give the "
            "data set itself"
        )


def _reordered(loader: DataLoader[Any], order: NDArray[np.int64]) -> DataLoader[Any]:
    """Return a copy of a loader, with all that it does to images, which takes them in another order."""
    ordered = copy.copy(loader)
    changes: dict[str, Any] = {"sampler": order.tolist(), "_iterator": None}
    if loader.batch_sampler is not None:
        size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
        size = size if isinstance(size, int) and size > 0 else BATCH_SIZE
        changes["batch_sampler"] = BatchSampler(changes["sampler"], size, drop_last=False)
    vars(ordered).update(changes)  # a loader refuses to have them set
    return ordered


def _order_of(loader: DataLoader[Any], what: str) -> NDArray[np.int64]:
    """Return the images that a loader is about, each once, in the order of its data set."""
    size = len(loader.dataset)  # type: ignore[arg-type]
    sampler: Any = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler
    chosen = _choice(sampler, size)
    order = np.arange(size) if chosen is None else np.unique(chosen)
    origins = _origins(loader.dataset, {})[order]
    order = order[np.sort(np.unique(origins, return_index=True)[1])]
    if not isinstance(sampler, (SequentialSampler, RandomSampler)) or len(order) < size:
        log.info("%s: each of %d images once, whatever the %s draws", what, len(order), type(sampler).__name__)
    return order


def _choice(sampler: Any, size: int) -> NDArray[np.int64] | None:
    """Return the images that a sampler can draw; None if these are all of the data set's."""
    if isinstance(sampler, (SequentialSampler, RandomSampler)):
        return np.arange(min(size, len(sampler.data_source)))
    if isinstance(sampler, (DistributedSampler, LongTailSampler)):
        return None
    if isinstance(sampler, WeightedRandomSampler):
        return np.flatnonzero(np.asarray(sampler.weights) > 0)
    if isinstance(sampler, SubsetRandomSampler):
        return np.asarray(list(sampler.indices), np.int64)
    first = _drawn(sampler, size)
    if isinstance(sampler, (Sequence, np.ndarray, Tensor)) or first is None:
        return first
    # Twice the same images without repetition are a choice of images; anything else is a way to draw from all
    again = _drawn(sampler, size)
    unique = np.unique(first)
    fixed = again is not None and len(unique) == len(first) and np.array_equal(unique, np.sort(again))
    return first if fixed else None


def _drawn(sampler: Any, size: int) -> NDArray[np.int64] | None:
    """Return what a sampler draws in a pass, at most a little more than `size`; None if these are no indices."""
    drawn: list[int] = []
    try:
        for item in itertools.islice(sampler, size + 1):
            drawn += np.asarray(item, np.int64).ravel().tolist()
            if len(drawn) > size:
                break
    except (TypeError, ValueError):
        return None
    return np.asarray(drawn, np.int64) if drawn else None


def _origins(dataset: Any, starts: dict[int, tuple[int, int]]) -> NDArray[np.int64]:
    """Return a number for each item of a data set, the same for items that are the same one of an underlying data set.

    Args:
        dataset: Perhaps a Subset or ConcatDataset, with repetitions.
        starts: (first number, size) of each underlying data set so far, by identity.
    """
    if isinstance(dataset, Subset):
        return _origins(dataset.dataset, starts)[np.asarray(list(dataset.indices), np.int64)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([_origins(part, starts) for part in dataset.datasets])
    start, size = starts.setdefault(id(dataset), (sum(size for _, size in starts.values()), len(dataset)))
    return np.arange(start, start + size)
