"""List the images of one split: class folders, a list file, COCO-style JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"}
)
"""Suffixes that make a file in a class folder an image; what it really holds is found out when it is indexed."""

_NUM_NAMED = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Listing:
    """The images of a split before any of them is looked at.

    Attributes:
        root: What `paths` are relative to.
        paths: N files, with forward slashes.
        labels: int64 [N].
        class_names: C names.
        source: The list, JSON file or folder it was read from.
        keys: What the source calls classes 0 .. C - 1 (folders, category ids), for the other splits to follow.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: Path
    keys: tuple[Any, ...] = ()


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


def lists_folder(root: Path, lists: Path) -> Path:
    """Return the folder of the list files that ``lists`` names, from the working folder or else from ``root``.

    Raises:
        FileNotFoundError: There is none.
    """
    for folder in (lists, root / lists):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"--lists: {lists} is no folder; expected the folder of the list files")


def read_list(file: Path, root: Path, *, class_names: tuple[str, ...] | None = None) -> Listing:
    """Read a list file; `LongTailedDataset.from_list` states the arguments and errors."""
    if not file.is_file():
        raise FileNotFoundError(f"list file {file} does not exist; expected a line `path label` an image")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}, the folder that the paths of {file} start from, does not exist")
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
                    f"{file}, line {number}: got {line.strip()[:80]!r}, expected `path label` with an integer label"
                ) from None
            paths.append(path.strip().replace("\\", "/"))
    array = np.array(labels, np.int64)
    if class_names is None and paths:
        names = _read_class_names(file.parent) or _read_class_names(root)
        class_names = names or _names_from_paths(paths, array)
    return Listing(root=root, paths=tuple(paths), labels=array, class_names=class_names or (), source=file)


def read_coco(
    file: Path,
    root: Path,
    *,
    categories: tuple[int, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Listing:
    """Read COCO-style JSON; `LongTailedDataset.from_coco` states the arguments and errors."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; expected COCO-style JSON")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}, the folder that the images of {file} start from, does not exist")
    try:
        content = json.loads(file.read_bytes())
        for key in ("images", "annotations"):
            if not (isinstance(content, dict) and isinstance(content.get(key), list) and content[key]):
                raise ValueError(f"has no {key!r}")
        category_of: dict[Any, int] = {}
        for entry in content["annotations"]:
            image, category = entry["image_id"], int(entry["category_id"])
            if category_of.setdefault(image, category) != category:
                raise ValueError(f"gives image {image} several categories ({category_of[image]}, {category})")
        images = [(entry["id"], str(entry["file_name"])) for entry in content["images"]]
        bare = [path for image, path in images if image not in category_of]
        if bare:
            raise ValueError(f"has {len(bare)} images without an annotation ({name_some(bare)})")
        listed = {int(entry["id"]): str(entry.get("name", entry["id"])) for entry in content.get("categories", ())}
    except (ValueError, KeyError, TypeError) as error:
        what = f"lacks the key {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{file} {what}; expected COCO-style JSON: images (id, file_name), annotations (image_id, category_id), "
            "one category an image"
        ) from None
    categories = categories or tuple(sorted(listed or set(category_of.values())))
    label_of = {category: label for label, category in enumerate(categories)}
    if unknown := sorted({category_of[image] for image, _ in images} - set(categories)):
        raise ValueError(
            f"{file} uses {len(unknown)} categories that are not among the {len(categories)} listed: "
            f"{name_some(unknown)}; add them to `categories` of the train file"
        )
    names = tuple(listed.get(category, str(category)) for category in categories)
    return Listing(
        root=root,
        paths=tuple(path for _, path in images),
        labels=np.array([label_of[category_of[image]] for image, _ in images], np.int64),
        class_names=class_names or names,
        source=file,
        keys=categories,
    )


def check_labels(listing: Listing, *, complete: bool) -> None:
    """Refuse labels outside 0 .. C - 1 and, where the split has to be `complete`, a class without an image."""
    present = np.unique(listing.labels)
    num_classes = len(listing.class_names)
    expected = f"expected 0 .. {num_classes - 1}"
    if present[0] < 0:
        raise ValueError(f"{listing.source}: got label {present[0]}, {expected}; number the classes from 0")
    if complete and present.size <= (highest := max(num_classes - 1, int(present[-1]))):
        known = set(present.tolist())
        empty = list(islice((label for label in range(highest + 1) if label not in known), _NUM_NAMED + 1))
        known_names = dict(enumerate(listing.class_names))
        names = [str(at) if known_names.get(at, str(at)) == str(at) else f"{at} ({known_names[at]})" for at in empty]
        raise ValueError(
            f"{listing.source}: {highest + 1 - present.size} of {highest + 1} classes have no train image: "
            f"{name_some(names)}; labels must be contiguous from 0: give each class an image, or drop "
            "it (its folder, or its number in the lists, with those above renumbered)"
        )
    if present[-1] >= num_classes:
        at = int(np.argmax(listing.labels >= num_classes))
        raise ValueError(
            f"{listing.source}: got label {listing.labels[at]} ({listing.paths[at]}), {expected}, the {num_classes} "
            f"classes {'named in classes.txt' if complete else 'of train'}; correct the label or add the class there"
        )


def _names_for(folder: Path, given: tuple[str, ...] | None, class_folders: Sequence[str]) -> tuple[str, ...]:
    names = given or _read_class_names(folder) or _read_class_names(folder.parent) or tuple(class_folders)
    if len(names) != len(class_folders):
        raise ValueError(
            f"{folder} has {len(class_folders)} class folders but {len(names)} class names are given (classes.txt); "
            "expected a line a folder, in sorted order"
        )
    return names


def _read_class_names(folder: Path) -> tuple[str, ...] | None:
    file = folder / "classes.txt"
    return tuple(file.read_text("utf-8-sig", errors="surrogateescape").splitlines()) if file.is_file() else None


def _names_from_paths(paths: Sequence[str], labels: np.ndarray) -> tuple[str, ...]:
    """Name each class after its images' folder where that is one to one, else after its label."""
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


def is_image(name: str) -> bool:
    """Whether a file is taken for an image by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def name_some(names: Sequence[Any]) -> str:
    """Name the first few of many, for a message."""
    return ", ".join(str(name) for name in names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")
