"""Find duplicate images in a data set, within a split and across splits, by the bytes of their files."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ...runtime.machine import resolve_threads
from ..dataset import LongTailedDataset

T = TypeVar("T")

_HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The duplicate images of a data set.

    Attributes:
        groups: Groups of two or more images with the same bytes, each image as (split, path, label).
        num_read: Files that had to be read in full.
        num_unread: Files that share their size with others but were not compared, since the limit was reached.
    """

    groups: tuple[tuple[tuple[str, str, int], ...], ...]
    num_read: int
    num_unread: int

    def counts(self) -> dict[str, int]:
        """Return the number of groups by the splits they occur in: "train", "train, val", ..."""
        touched = Counter(", ".join(dict.fromkeys(split for split, _, _ in group)) for group in self.groups)
        return dict(sorted(touched.items()))

    @property
    def num_contradictions(self) -> int:
        """Number of groups whose images have different labels."""
        return sum(len({label for _, _, label in group}) > 1 for group in self.groups)


def find_duplicates(
    splits: Mapping[str, LongTailedDataset], *, max_bytes: int = 20_000_000_000, num_threads: int | None = None
) -> Duplicates:
    """Find images whose files have the same bytes, and files that are listed twice.

    Only files of equal size are compared: first their beginnings, then all bytes.

    Args:
        splits: The splits by name.
        max_bytes: Limit on the bytes of the files read in full; those left out are counted.
        num_threads: Threads that read; by default one per processor, at most 16.

    Returns:
        The groups, and how much was read.

    Raises:
        OSError: A file cannot be read.
    """
    images = [(split, index) for split, dataset in splits.items() for index in range(len(dataset))]
    # A file that is listed many times is read once
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at, (split, index) in enumerate(images):
        dataset = splits[split]
        places[str(dataset.root), dataset.paths[index]].append(at)
    firsts = [members[0] for members in places.values()]

    def content(at: int) -> bytes:
        split, index = images[at]
        return splits[split].read(index)

    def head(at: int) -> bytes:
        split, index = images[at]
        dataset = splits[split]
        if dataset.images is not None:
            return hashlib.sha256(dataset.read(index)[:_HEAD_BYTES]).digest()
        with dataset.path(index).open("rb", buffering=0) as file:
            return hashlib.sha256(file.read(_HEAD_BYTES)).digest()

    sizes = {at: _size(splits[images[at][0]], images[at][1]) for at in firsts}
    num_read = num_unread = num_bytes = 0
    same: list[list[int]] = []
    with ThreadPoolExecutor(resolve_threads(num_threads)) as pool:
        candidates = [at for group in _alike(firsts, (sizes[at] for at in firsts)) for at in group]
        heads = zip((sizes[at] for at in candidates), pool.map(head, candidates), strict=True)
        for group in _alike(candidates, heads):
            size = sizes[group[0]]
            if size <= _HEAD_BYTES:
                same.append(group)
                continue
            if num_bytes + size * len(group) > max_bytes:
                num_unread += len(group)
                continue
            num_bytes += size * len(group)
            num_read += len(group)
            digests = list(pool.map(lambda at: hashlib.sha256(content(at)).digest(), group))
            same.extend(_alike(group, digests))
    members_of = {members[0]: members for members in places.values()}
    duplicates = [sorted(at for first in group for at in members_of[first]) for group in same]
    grouped = {at for group in same for at in group}
    duplicates += [members for first, members in members_of.items() if len(members) > 1 and first not in grouped]
    groups = tuple(
        tuple(
            (split, splits[split].paths[index], int(splits[split].labels[index]))
            for split, index in map(images.__getitem__, group)
        )
        for group in sorted(duplicates)
    )
    return Duplicates(groups=groups, num_read=num_read, num_unread=num_unread)


def _size(dataset: LongTailedDataset, index: int) -> int:
    if dataset.images is not None:
        return int(np.asarray(dataset.images.lengths)[index])
    return dataset.path(index).stat().st_size


def _alike(items: Sequence[T], keys: Iterable[Hashable]) -> Iterator[list[T]]:
    """Yield groups of two or more items with the same key."""
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        groups[key].append(item)
    yield from (group for group in groups.values() if len(group) > 1)
