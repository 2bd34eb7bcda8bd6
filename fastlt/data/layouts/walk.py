"""The one walk through folders: which files are images, and which files are left out and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...files.owning import LOCK
from ...files.writing import is_partial
from ...runtime.log import log, name_some
from ..decoding.formats import IMAGE_SUFFIXES, reason_to_leave_out

Identity = tuple[int, int]
"""A folder's device and inode, the same under all its names."""

HIDDEN = "hidden"
SYSTEM = "of the system"
OURS = "left by fastlt"
TWICE = "listed under another name"
LOOSE = "beside the class folders"

BY_NAME = frozenset({HIDDEN, SYSTEM, OURS})
"""The reasons that names give, whatever the files hold."""

_SYSTEM_NAMES = frozenset(
    {"@eadir", "__macosx", "lost+found", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__", "@tmp", ".@__thumb"}
    | {".ds_store", ".appledouble", ".spotlight-v100", ".trashes", ".fseventsd", ".ipynb_checkpoints"}
)
_SYSTEM_STARTS = ("._", ".nfs", ".trash-")
_NUM_NAMED = 3


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or, with a slash at its end, a folder that is left out.

    Attributes:
        path: Relative to the folder that was walked.
        reason: Why, the same words for every file of a kind.
        is_picture: Whether it looks like an image that somebody would miss.
    """

    path: str
    reason: str
    is_picture: bool = False


@dataclass(slots=True)
class Found:
    """What a walk found.

    Attributes:
        images: Images, relative to the folder that was walked, in order.
        left_out: All that is no image, or is not entered.
        folders: The folders in the one that was looked at, sorted; after a walk through all of them there are none.
    """

    images: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    @property
    def pictures(self) -> list[LeftOut]:
        """What is left out though it looks like an image."""
        return [each for each in self.left_out if each.is_picture]


def look(folder: Path, prefix: str = "") -> Found:
    """Return what is directly in a folder.

    Args:
        folder: The folder.
        prefix: What the paths of images and of what is left out begin with.

    Raises:
        OSError: The folder, or a file in it that has an unusual name, cannot be read.
    """
    found = Found()
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = entry.name
            suffix = name[name.rfind(".") :].lower()  # of a million files: a third of the time of os.path.splitext
            is_folder = _is_folder(entry)
            if (reason := _reason_by_name(name)) is not None:
                found.left_out.append(LeftOut(f"{prefix}{name}{'/' if is_folder else ''}", reason))
            elif is_folder:
                found.folders.append(name)
            elif suffix in IMAGE_SUFFIXES or (judged := reason_to_leave_out(entry.path, name)) is None:
                found.images.append(prefix + name)
            else:
                found.left_out.append(LeftOut(prefix + name, *judged))
    return found


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones and those of the system."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _reason_by_name(entry.name) is None and _is_folder(entry))


def walk(folder: Path, taken: dict[Identity, Path] | None = None, seen: set[Identity] | None = None) -> Found:
    """Find the images below a folder, in order of their names, those of a folder before those of its folders.

    Every real folder counts once, however many links lead to it; hidden ones and those of the system are not entered.

    Args:
        folder: The folder; one that does not exist has no image.
        taken: Folders that may not be reached from it; those that are reached are added.
        seen: Folders that count already; those that are reached are added.

    Raises:
        ValueError: One of the folders that are taken is reached.
        OSError: A folder cannot be read.
    """
    found = Found()
    if not folder.is_dir():
        return found
    taken, seen = {} if taken is None else taken, set() if seen is None else seen
    if (identity := identity_of(folder)) in seen:
        found.left_out.append(LeftOut("./", TWICE))
        return found
    seen.add(identity)
    left = [""]
    while left:
        prefix = left.pop()
        here = look(folder / prefix, prefix)
        found.images += here.images
        found.left_out += here.left_out
        below = []
        for name in here.folders:
            if _claim(folder / prefix / name, taken, seen):
                below.append(f"{prefix}{name}/")
            else:
                found.left_out.append(LeftOut(f"{prefix}{name}/", TWICE))
        left += reversed(below)
    return found


def claim(place: Path, taken: dict[Identity, Path]) -> None:
    """Add a folder to those that are taken.

    Raises:
        ValueError: It is one of them, perhaps under another name.
    """
    if (other := taken.setdefault(identity_of(place), place)) is not place:
        raise ValueError(
            f"{place}: got the same folder as {other}; expected every folder in one class only; remove the link"
        )


def _claim(place: Path, taken: dict[Identity, Path], seen: set[Identity]) -> bool:
    """Add a folder to those seen, or return that it is one of them."""
    identity = identity_of(place)
    if identity in seen:
        return False
    claim(place, taken)
    seen.add(identity)
    return True


def identity_of(place: Path) -> Identity:
    """Return a folder's device and inode."""
    status = place.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
            return False  # what it is instead is told as of any other file
        raise


def _reason_by_name(name: str) -> str | None:
    """Return why a file or folder of a name is left out whatever it holds."""
    lower = name.lower()
    if lower in _SYSTEM_NAMES or lower.startswith(_SYSTEM_STARTS):
        return SYSTEM
    if not name.startswith("."):
        return None
    return OURS if is_partial(name) or name.endswith(LOCK) else HIDDEN


def tell_left_out(source: Path | str, left_out: Sequence[LeftOut], *, strict: bool = False) -> None:
    """Say what is left out, by reason; pictures among it are a warning.

    Args:
        source: Where the files are, for messages.
        left_out: What is left out.
        strict: Whether pictures that are left out are an error.

    Raises:
        ValueError: `strict`, and there are pictures.
    """
    pictures = [each for each in left_out if each.is_picture]
    if strict and pictures:
        raise ValueError(
            f"{source}: got {len(pictures)} pictures that are left out, {count_reasons(pictures)}; expected images "
            "that can be read, in class folders; convert, move or remove them, or drop --strict"
        )
    if left_out:
        level = log.warning if pictures else log.info
        level("%s: %d files or folders are left out: %s", source, len(left_out), count_reasons(left_out))


def count_reasons(left_out: Sequence[LeftOut]) -> str:
    """Return the number of files for each reason and the first of them, the pictures first."""
    paths: dict[str, list[str]] = {}
    for each in sorted(left_out, key=lambda each: not each.is_picture):
        paths.setdefault(each.reason, []).append(each.path)
    return "; ".join(f"{len(files)} {reason} ({name_some(files, _NUM_NAMED)})" for reason, files in paths.items())


def reasons_as_json(left_out: Sequence[LeftOut]) -> dict[str, list[str]]:
    """Return the files that are left out, by reason."""
    paths: dict[str, list[str]] = {}
    for each in left_out:
        paths.setdefault(each.reason, []).append(each.path)
    return paths
