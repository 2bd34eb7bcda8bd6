"""Images that a data set holds more than once where it should not: in two splits, listed twice, or under two labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...runtime.log import log
from ..layouts.identity import Labelled
from ..tar import TarImages

# Shapes: N images.


class Images(Labelled, Protocol):
    """The images of a split, opened or only listed."""

    @property
    def root(self) -> Path:
        """What `paths` are relative to."""
        ...

    @property
    def contents(self) -> np.ndarray | None:
        """uint64 [N], the same for images of the same bytes."""
        ...

    @property
    def images(self) -> TarImages | None:
        """The images if they are packed in a tar."""
        ...


@dataclass(frozen=True, kw_only=True)
class ListedImages:
    """The images of a split that is only listed; the fields are those of `Images`."""

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    contents: np.ndarray | None
    images: TarImages | None = None


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What a data set holds more than once.

    Attributes:
        shared: By (split, earlier split), the images of the first that are in the second too, by the bytes of files.
        repeated: By split, how often an image is listed again, by its path or by a link.
        num_contradictions: Images that have more than one label, in one split or in several.
        findings: All this in words, with the first example of each.
    """

    shared: dict[tuple[str, str], int]
    repeated: dict[str, int]
    num_contradictions: int
    findings: tuple[str, ...]


def check_overlap(splits: Mapping[str, Images], *, strict: bool = False) -> Overlap:
    """Warn of images that a data set holds more than once.

    Args:
        splits: The splits by name, with "train" among them.
        strict: Whether they are an error.

    Raises:
        ValueError: There are some, and `strict` is set.
    """
    overlap = find_overlap(splits)
    root = splits["train"].root
    if strict and overlap.findings:
        raise ValueError(
            f"{root}: got {'; '.join(overlap.findings)}; expected every image once, in one split and with one label; "
            "remove the others, or drop --strict to go on with them"
        )
    for finding in overlap.findings:
        log.warning("%s: %s", root, finding)
    return overlap


def find_overlap(splits: Mapping[str, Images]) -> Overlap:
    """Find images that a data set holds more than once; nothing is read but the status of files that look alike.

    Args:
        splits: The splits by name.
    """
    names = list(splits)
    keys = {name: keys_of(split) for name, split in splits.items()}
    findings: list[str] = []
    shared: dict[tuple[str, str], int] = {}
    for at, name in enumerate(names):
        for earlier in names[:at]:
            found = np.isin(keys[name], keys[earlier])
            if count := int(found.sum()):
                first = int(found.argmax())
                twin = int((keys[earlier] == keys[name][first]).argmax())
                pair = f"{splits[name].paths[first]} of {name} is {splits[earlier].paths[twin]} of {earlier}"
                shared[name, earlier] = count
                findings.append(
                    f"{count:,} of {len(found):,} {name} images are in {earlier} too ({pair})"
                    + (f", so that accuracies on {name} are too high" if earlier == "train" else "")
                )
    repeated: dict[str, int] = {}
    for name, split in splits.items():
        count, example = _count_repeated(split, keys[name])
        if count:
            repeated[name] = count
            findings.append(f"{name} lists {count:,} images again that it has already ({example})")
    num_contradictions, example = _find_contradictions(list(splits.values()), list(keys.values()))
    if num_contradictions:
        findings.append(f"{num_contradictions:,} images have more than one label ({example})")
    return Overlap(shared=shared, repeated=repeated, num_contradictions=num_contradictions, findings=tuple(findings))


def shared_images(split: Images, other: Images) -> np.ndarray:
    """Return which images of a split are in another one too: bool [N]."""
    return np.isin(keys_of(split), keys_of(other))


def keys_of(split: Images) -> np.ndarray:
    """Return what tells images apart: uint64 [N]; the path where the content is not known."""
    if split.contents is not None:
        return split.contents
    prefix = str(split.root)
    return np.array([hash((prefix, os.path.normpath(path))) & (2**64 - 1) for path in split.paths], np.uint64)


def _count_repeated(split: Images, keys: np.ndarray) -> tuple[int, str]:
    """Return how many images of a split are another one's file again, and an example; copies may be meant."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    alike = np.sort(order[np.append(same, False) | np.insert(same, 0, False)]).tolist()
    seen: dict[object, int] = {}
    count, example = 0, ""
    for at in alike:
        identity = _identity(split, split.paths[at])
        first = seen.setdefault(identity, at)
        if first != at:
            count += 1
            example = example or _pair(split.paths[first], split.paths[at])
    return count, example


def _pair(one: str, other: str) -> str:
    return one if one == other else f"{other} is {one}"


def _identity(split: Images, path: str) -> object:
    """Return what all names of a file have in common."""
    if split.images is None:
        try:
            status = (split.root / path).stat()
        except OSError:
            return path
        if status.st_ino:  # some network drives have none
            return status.st_dev, status.st_ino
    return os.path.normpath(path)


def _find_contradictions(splits: Sequence[Images], keys: Sequence[np.ndarray]) -> tuple[int, str]:
    """Return the number of images with more than one label, and an example."""
    every = np.concatenate(keys)
    labels = np.concatenate([split.labels for split in splits])
    order = np.lexsort((labels, every))
    ordered, their = every[order], labels[order]
    differ = (ordered[1:] == ordered[:-1]) & (their[1:] != their[:-1])
    if not differ.any():
        return 0, ""
    named = [
        (path, split, int(label)) for split in splits for path, label in zip(split.paths, split.labels, strict=True)
    ]
    at = int(differ.argmax())
    words = [f"{path}: {split.class_names[label]}" for path, split, label in (named[order[at]], named[order[at + 1]])]
    return len(np.unique(ordered[1:][differ])), ", ".join(words)
