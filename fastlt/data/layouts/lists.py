"""List files: one line `path label` per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .layout import file_layout
from .listing import Listing, read_class_names

ROOT_POINTER = "root.txt"
"""A file beside list files that names the folder their paths start from."""


def lists_folder(root: Path, lists: Path) -> Path:
    """Return the folder of list files that `lists` names, relative to the working folder or else to `root`.

    Raises:
        FileNotFoundError: There is none.
    """
    for folder in (lists, root / lists):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"--lists: got {lists}, which is not a folder; expected the folder of the list files")


def read_list(file: Path, root: Path, *, class_names: tuple[str, ...] | None = None) -> Listing:
    """Read a list file; `LongTailedDataset.from_list` states the arguments and errors."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected a list file, a line `path label` an image")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected the one that the paths of {file} start from")
    paths: list[str] = []
    labels: list[int] = []
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip().rsplit(maxsplit=1)
            if not fields:
                continue
            try:
                path, label = fields
                labels.append(int(np.int32(int(label))))
            except (ValueError, OverflowError):
                raise ValueError(
                    f"{file}, line {number}: got {line.strip()[:80]!r}; expected `path label` with an integer label"
                ) from None
            paths.append(path.strip().replace("\\", "/"))
    array = np.array(labels, np.int64)
    if class_names is None and paths:
        names = read_class_names(file.parent) or read_class_names(root)
        class_names = names or _names_from_paths(paths, array)
    return Listing(root=root, paths=tuple(paths), labels=array, class_names=class_names or (), source=file)


def _names_from_paths(paths: Sequence[str], labels: np.ndarray) -> tuple[str, ...]:
    """Name each class after its images' folder where folders and labels match one to one, else after its label."""
    num_classes = int(labels.max()) + 1
    numbers = tuple(str(label) for label in range(min(num_classes, 10 * len(labels) + 1)))
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
