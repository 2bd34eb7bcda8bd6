"""List files: one line `path label` per image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from ...files import check_regular, naming, read_limited
from .layout import file_layout
from .listing import Listing, read_class_names

ROOT_POINTER = "root.txt"
"""A file beside list files that names the folder their paths start from."""

_MOST_CHARACTERS = 8192  # of a line; a path has at most 4,096 bytes
_PLAUSIBLE_CLASSES = 1 << 20  # in a list of fewer images; labels a little too large have a message of their own


def lists_folder(root: Path, lists: Path) -> Path:
    """Return the folder of list files that `lists` names, relative to the working folder or else to `root`.

    Raises:
        FileNotFoundError: There is none.
    """
    for folder in (lists, root / lists):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"--lists: got {lists}, which is not a folder; expected the folder of the list files")


def start_folder(root: Path) -> Path:
    """Return the folder that the paths of list files start from: the one named in the root's `root.txt`, or the root.

    Raises:
        ValueError: `root.txt` names no folder.
    """
    pointer = root / ROOT_POINTER
    if not pointer.is_file():
        return root
    text = read_limited(pointer, _MOST_CHARACTERS, "the name of a folder").decode("utf-8-sig", "surrogateescape")
    folder = root / text.strip()
    if not os.path.isdir(folder):  # noqa: PTH112 - pathlib raises an OSError for a name that is too long
        raise ValueError(
            f"{pointer}: got {text.strip()[:80]!r}, which is no folder; expected the one that the lists' paths start "
            "from; correct it"
        )
    return folder


def read_list(file: Path, root: Path, *, class_names: tuple[str, ...] | None = None) -> Listing:
    """Read a list file; `LongTailedDataset.from_list` states the arguments and errors."""
    check_regular(file, "a list file, a line `path label` an image")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected the one that the paths of {file} start from")
    paths: list[str] = []
    labels: list[int] = []
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream, naming(file):
        lines = iter(partial(stream.readline, _MOST_CHARACTERS), "")  # a file that is no list may have one line only
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            entry = _parse(line)
            if entry is None:
                raise ValueError(
                    f"{file}, line {number}: got {line.strip()[:80]!r}; expected `path label` with an integer label"
                )
            paths.append(entry[0])
            labels.append(entry[1])
    array = np.array(labels, np.int64)
    if class_names is None and paths:
        names = read_class_names(file.parent) or read_class_names(root)
        _check_largest(file, array, max(len(names or ()), len(paths), _PLAUSIBLE_CLASSES))
        class_names = names or _names_from_paths(paths, array)
    return Listing(root=root, paths=tuple(paths), labels=array, class_names=class_names or (), source=file)


def _parse(line: str) -> tuple[str, int] | None:
    """Return the path and the label of a line; None if it has another form."""
    try:
        path, label = line.rstrip().rsplit(maxsplit=1)
        number = int(np.int32(int(label)))
    except (ValueError, OverflowError):
        return None
    if "_" in label:  # which `int` leaves out
        return None
    return None if "\0" in path or len(line) == _MOST_CHARACTERS else (path.strip().replace("\\", "/"), number)


def unlistable(paths: Iterable[str]) -> list[str]:
    """Return the paths that `read_list` would not find again in a list."""
    return [path for path in paths if _parse(f"{path} 0\n") != (path, 0) or "\n" in path or "\r" in path]


def _check_largest(file: Path, labels: np.ndarray, most: int) -> None:
    """Raise a ValueError if a label announces more classes than the list can be meant to have."""
    at = int(labels.argmax())
    if labels[at] < most:
        return
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        filled = (number for number, line in enumerate(lines, 1) if line.strip())
        number = next(islice(filled, at, None))
    raise ValueError(
        f"{file}, line {number}: got label {labels[at]} in a list of {len(labels)} images; expected classes numbered "
        "from 0, each with an image; correct the label"
    )


def _names_from_paths(paths: Sequence[str], labels: np.ndarray) -> tuple[str, ...]:
    """Name each class after its images' folder where folders and labels match one to one, else after its label."""
    num_classes = int(labels.max()) + 1
    numbers = tuple(str(label) for label in range(num_classes))
    folder_of: dict[int, str] = {}
    for path, label in zip(paths, labels.tolist(), strict=True):
        folder = path.rpartition("/")[0].rpartition("/")[2]
        if not folder or folder_of.setdefault(label, folder) != folder:
            return numbers
    if len(set(folder_of.values())) < len(folder_of):
        return numbers
    return tuple(folder_of.get(label, str(label)) for label in range(len(numbers)))


def _read(source: Path, root: Path, train: Listing | None) -> Listing:
    return read_list(source, root, class_names=train.class_names if train else None)


LISTS = file_layout("train.txt", file="{split}.txt", pattern="*[_-]{split}.txt", folders=("", "lists"), read=_read)
