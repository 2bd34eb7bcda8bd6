"""Class folders: one folder per class, with the class's images at any depth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...runtime.log import name_some
from .layout import SPLITS, Layout
from .listing import Listing, read_class_names

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"}
)
"""Suffixes by which a file in a class folder counts as an image; indexing checks what it really holds."""

_OTHER_NAMES = {"val": ("valid", "validation")}


def list_folder(
    folder: Path, *, class_folders: tuple[str, ...] | None = None, class_names: tuple[str, ...] | None = None
) -> Listing:
    """List a folder of class folders; `LongTailedDataset.from_folder` states the arguments and errors."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one that holds a folder a class")
    present = subfolders(folder)
    if class_folders is None:
        if not present:
            held = (
                f"{num_loose} images without class folders"
                if (num_loose := count_images(folder))
                else "an empty folder"
            )
            raise FileNotFoundError(f"{folder}: got {held}; expected a folder a class, {folder}/<class>/<image>")
        if len(present) == 1 and len(inner := subfolders(folder / present[0])) > 1:
            raise ValueError(
                f"{folder}: got one class folder, {present[0]}, which holds folders itself ({name_some(inner)}); "
                f"expected {folder}/<class>/<image>; move the class folders one level up"
            )
        class_folders = tuple(present)
    elif unknown := sorted(set(present) - set(class_folders)):
        raise ValueError(
            f"{folder}: got {len(unknown)} classes that train lacks, {name_some(unknown)}; expected those of train; "
            "rename them as in train, or add their images to train"
        )
    paths: list[str] = []
    counts = []
    for name in class_folders:
        files, num_ignored = list_images(folder / name)
        paths.extend(f"{name}/{file}" for file in files)
        counts.append(len(files))
        if not files and num_ignored:
            raise ValueError(
                f"{folder / name}: got no image and {num_ignored} files with other suffixes; expected "
                f"{', '.join(sorted(IMAGE_SUFFIXES)[:4])}, ...; rename or remove them"
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
    """List the images below a folder, sorted and relative to it; count its other files. Hidden files are left out."""
    images: list[str] = []
    num_ignored = 0
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(parent).relative_to(folder).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        for name in sorted(files):
            if _is_image(name):
                images.append(prefix + name)
            elif not name.startswith("."):
                num_ignored += 1
    return images, num_ignored


def count_images(folder: Path) -> int:
    """Count the images directly in a folder."""
    with os.scandir(folder) as entries:
        return sum(_is_image(entry.name) for entry in entries)


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _names_for(folder: Path, given: tuple[str, ...] | None, class_folders: Sequence[str]) -> tuple[str, ...]:
    names = given or read_class_names(folder) or read_class_names(folder.parent) or tuple(class_folders)
    if len(names) != len(class_folders):
        raise ValueError(
            f"{folder}: got {len(class_folders)} class folders but {len(names)} class names; expected a name a folder, "
            "in sorted order; correct classes.txt"
        )
    return names


def _is_image(name: str) -> bool:
    """Return whether a file counts as an image by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def _find(root: Path) -> dict[str, Path]:
    folders = {
        split: root / name
        for split in SPLITS
        for name in (split, *_OTHER_NAMES.get(split, ()))
        if (root / name).is_dir()
    }
    if "test" in folders and not subfolders(folders["test"]):
        # Challenge data often has a test folder of unlabelled images
        del folders["test"]
    return folders if "train" in folders else {}


def _read(source: Path, root: Path, train: Listing | None) -> Listing:
    if train is None:
        return list_folder(source)
    return list_folder(source, class_folders=train.keys, class_names=train.class_names)


def _explain_no_val(train: Path) -> str:
    return (
        f"{train.parent}: got a train split ({train.name}/) but no val split; expected val/<class>/<image> beside it; "
        f"add it, or make val from train with `fastlt data split {train}` and give {train} as --data-root"
    )


FOLDERS = Layout(
    train="train/<class>/<image>", find=_find, matches=Path.is_dir, read=_read, explain_no_val=_explain_no_val
)
