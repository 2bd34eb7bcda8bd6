"""Class folders: one folder per class, with the class's images at any depth."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
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

Identity = tuple[int, int]
"""A folder's device and inode, the same under all its names."""

_OTHER_NAMES = {"val": ("valid", "validation")}


def list_folder(
    folder: Path,
    *,
    class_folders: tuple[str, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
    apart: Iterable[Path] = (),
) -> Listing:
    """List a folder of class folders; `LongTailedDataset.from_folder` states the arguments and errors.

    Args:
        folder: As for `from_folder`.
        class_folders: As for `from_folder`.
        class_names: As for `from_folder`.
        apart: As for `list_classes`.
    """
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
    for name, (files, num_ignored) in zip(class_folders, list_classes(folder, class_folders, apart), strict=True):
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


def list_classes(folder: Path, names: Sequence[str], apart: Iterable[Path] = ()) -> list[tuple[list[str], int]]:
    """List the images of class folders; no folder may count for two classes, as links can make it do.

    Args:
        folder: Holds the class folders.
        names: The class folders; one that does not exist has no image.
        apart: Other folders that none of them may contain, as those of other splits.

    Returns:
        What `list_images` returns for each class.

    Raises:
        ValueError: A folder is reached as a part of two classes, or from a class folder that it holds.
    """
    classes: dict[Identity, Path] = {}
    for place in (folder, *(folder / name for name in names)):
        if place.is_dir():
            _claim(place, _identity(place), classes)
    taken = {_identity(place): place for place in apart} | classes
    return [list_images(folder / name, taken) for name in names]


def list_images(folder: Path, taken: dict[Identity, Path] | None = None) -> tuple[list[str], int]:
    """List the images below a folder, sorted and relative to it; count its other files. Hidden files are left out.

    A folder that links reach again counts once.

    Args:
        folder: The folder; one that does not exist has no image.
        taken: Folders that may not be reached from it; those that are reached are added.

    Raises:
        ValueError: One of the folders that are taken is reached.
        OSError: A folder cannot be read.
    """
    images: list[str] = []
    num_ignored = 0
    if not folder.is_dir():
        return images, num_ignored
    taken = {} if taken is None else taken
    seen = {_identity(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        relative = Path(parent).relative_to(folder).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        names, folders[:] = sorted(name for name in folders if not name.startswith(".")), []
        for name in names:
            place = folder / f"{prefix}{name}"
            identity = _identity(place)
            if identity not in seen:
                _claim(place, identity, taken)
                seen.add(identity)
                folders.append(name)
        for name in sorted(files):
            if _is_image(name):
                images.append(prefix + name)
            elif not name.startswith("."):
                num_ignored += 1
    return images, num_ignored


def _claim(place: Path, identity: Identity, taken: dict[Identity, Path]) -> None:
    """Add a folder to those that are taken.

    Raises:
        ValueError: It is one of them, perhaps under another name.
    """
    if (other := taken.setdefault(identity, place)) is not place:
        raise ValueError(
            f"{place}: got the same folder as {other}; expected every folder in one class only; remove the link"
        )


def _identity(place: Path) -> Identity:
    status = place.stat()
    return status.st_dev, status.st_ino


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave out what it cannot read


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
    apart = [place for other in _find(root).values() if not other.samefile(source) for place in _with_subfolders(other)]
    if train is None:
        return list_folder(source, apart=apart)
    return list_folder(source, class_folders=train.keys, class_names=train.class_names, apart=apart)


def _with_subfolders(folder: Path) -> list[Path]:
    return [folder, *(folder / name for name in subfolders(folder))]


def _explain_no_val(train: Path) -> str:
    return (
        f"{train.parent}: got a train split ({train.name}/) but no val split; expected val/<class>/<image> beside it; "
        f"add it, or make val from train with `fastlt data split {train}` and give {train} as --data-root"
    )


FOLDERS = Layout(
    train="train/<class>/<image>", find=_find, matches=Path.is_dir, read=_read, explain_no_val=_explain_no_val
)
