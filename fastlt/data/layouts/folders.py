"""Class folders: a folder a class, its images at any depth below."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .listing import Listing, _read_class_names, name_some

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"}
)
"""Suffixes that make a file in a class folder an image; what it really holds is found out when it is indexed."""


def _holds_image(folder: Path) -> bool:
    """Whether a folder directly holds an image."""
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) for entry in entries)


def list_folder(
    folder: Path, *, class_folders: tuple[str, ...] | None = None, class_names: tuple[str, ...] | None = None
) -> Listing:
    """List a folder of class folders; `LongTailedDataset.from_folder` states the arguments and errors."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one that holds a folder a class")
    present = subfolders(folder)
    if class_folders is None:
        if not present:
            loose = sum(is_image(entry.name) for entry in os.scandir(folder))
            held = f"holds {loose} images" if loose else "is empty"
            raise FileNotFoundError(f"{folder} {held}, expected a folder a class: {folder}/<class>/<image>")
        if len(present) == 1 and len(inner := subfolders(folder / present[0])) > 1:
            raise ValueError(
                f"{folder} has one class folder, {present[0]}, which holds folders itself ({name_some(inner)}); "
                f"expected {folder}/<class>/<image>: move the class folders one level up"
            )
        class_folders = tuple(present)
    elif unknown := sorted(set(present) - set(class_folders)):
        raise ValueError(
            f"{folder} has {len(unknown)} classes that train lacks: {name_some(unknown)}; rename them as in train or "
            "add their images to train"
        )
    paths: list[str] = []
    counts = []
    for name in class_folders:
        before = len(paths)
        found, ignored = list_images(folder / name)
        paths.extend(f"{name}/{path}" for path in found)
        counts.append(len(paths) - before)
        if not found and ignored:
            raise ValueError(
                f"{folder / name} has no image ({ignored} files with other suffixes); expected "
                f"{', '.join(sorted(IMAGE_SUFFIXES)[:4])}, ...: rename or remove them"
            )
    return Listing(
        root=folder,
        paths=tuple(paths),
        labels=np.repeat(np.arange(len(class_folders), dtype=np.int64), counts),
        class_names=_names_for(folder, class_names, class_folders),
        source=folder,
        keys=class_folders,
    )


def list_images(folder: Path) -> tuple[list[str], int]:
    """List the images below a folder, sorted, relative to it; also count the other files. Hidden ones do not count."""
    found: list[str] = []
    ignored = 0
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(parent).relative_to(folder).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        for name in sorted(files):
            if is_image(name):
                found.append(prefix + name)
            elif not name.startswith("."):
                ignored += 1
    return found, ignored


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _names_for(folder: Path, given: tuple[str, ...] | None, class_folders: Sequence[str]) -> tuple[str, ...]:
    names = given or _read_class_names(folder) or _read_class_names(folder.parent) or tuple(class_folders)
    if len(names) != len(class_folders):
        raise ValueError(
            f"{folder} has {len(class_folders)} class folders but {len(names)} class names are given (classes.txt); "
            "expected a line a folder, in sorted order"
        )
    return names


def is_image(name: str) -> bool:
    """Whether a file is taken for an image by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
