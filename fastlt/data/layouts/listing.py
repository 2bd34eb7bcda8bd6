"""The images of one split as a layout lists them, before any file is read."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from ...files import read_limited
from .walk import LeftOut

_NUM_NAMED = 5
_MOST_BYTES = 64 << 20  # of a classes.txt


@dataclass(frozen=True, eq=False, kw_only=True)
class Listing:
    """The images of a split before any file is read.

    Attributes:
        root: What `paths` are relative to.
        paths: N files, with forward slashes.
        labels: int64 [N].
        class_names: C names.
        source: The list, JSON file or folder that the listing comes from.
        left_out: What lies beside the images and is none, or is no folder of them.
        keys: What the source calls classes 0 .. C - 1 (folders, category ids); the other splits use the same.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: Path
    keys: tuple[Any, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def check_labels(listing: Listing, *, complete: bool) -> None:
    """Raise a ValueError unless labels are 0 .. C - 1 and, if the split must be `complete`, no class is empty."""
    present = np.unique(listing.labels)
    num_classes = len(listing.class_names)
    expected = f"expected 0 .. {num_classes - 1}"
    if present[0] < 0:
        raise ValueError(f"{listing.source}: got label {present[0]}; {expected}; number the classes from 0")
    if complete and present.size <= (highest := max(num_classes - 1, int(present[-1]))):
        labels, names = set(present.tolist()), dict(enumerate(listing.class_names))
        num_empty = highest + 1 - present.size
        empty = islice((label for label in range(highest + 1) if label not in labels), _NUM_NAMED)
        named = [
            str(label) if names.get(label, str(label)) == str(label) else f"{label} ({names[label]})" for label in empty
        ]
        raise ValueError(
            f"{listing.source}: got no train image for {num_empty} of {highest + 1} classes, {', '.join(named)}"
            f"{', ...' if num_empty > _NUM_NAMED else ''}; expected labels contiguous from 0; give each class an "
            "image, or drop it (its folder, or its number in the lists, with those above renumbered)"
        )
    if present[-1] >= num_classes:
        at = int(np.argmax(listing.labels >= num_classes))
        raise ValueError(
            f"{listing.source}: got label {listing.labels[at]} ({listing.paths[at]}); {expected}, the {num_classes} "
            f"classes {'named in classes.txt' if complete else 'of train'}; correct the label, or add the class there"
        )


def nfc(name: str) -> str:
    """Return a name in the one of Unicode's forms in which equal names are equal; macOS writes another one."""
    return name if name.isascii() else normalize("NFC", name)


def as_on_disk(listing: Listing) -> Listing:
    """Return a listing whose paths are written as the disk has them, which may be in another form of Unicode."""
    if all(map(str.isascii, listing.paths)):
        return listing

    @functools.cache
    def names_in(folder: str) -> dict[str, str]:
        try:
            names = [entry.name for entry in os.scandir(listing.root / folder)]
        except OSError:
            return {}  # indexing says what is missing
        return {nfc(name): name for name in names} | {name: name for name in names}

    @functools.cache
    def real_folder(folder: str) -> str:
        return real(folder) if folder.strip("/") else folder

    def real(path: str) -> str:
        if path.isascii():
            return path
        parent, slash, name = path.rpartition("/")
        parent = real_folder(parent)
        there = name if name.isascii() else names_in(parent)
        return f"{parent}{slash}{there if isinstance(there, str) else there.get(name) or there.get(nfc(name), name)}"

    return replace(listing, paths=tuple(map(real, listing.paths)))


def first_unusable(paths: Sequence[str]) -> int | None:
    """Return the position of the first path that no file can have; None if there is none."""

    def usable(text: str) -> bool:
        try:
            return b"\0" not in os.fsencode(text)
        except UnicodeEncodeError:
            return False

    if usable("".join(paths)):
        return None
    return next(at for at, path in enumerate(paths) if not usable(path))


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """Read the class names in a folder's `classes.txt`; return None where there is none."""
    file = folder / "classes.txt"
    if not file.is_file():
        return None
    text = read_limited(file, _MOST_BYTES, "a class name a line").decode("utf-8-sig", "surrogateescape")
    names = tuple(line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")) if text else ()
    if (at := next((at for at, name in enumerate(names) if "\0" in name), None)) is not None:
        raise ValueError(f"{file}, line {at + 1}: got {names[at][:80]!r}; expected a class name; give a text file")
    return names
