"""Images without labels: to classify, or to estimate class frequencies from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..runtime.log import log, name_some
from .dataset import LongTailedDataset, SkippedFile
from .index import fingerprint, index_files
from .layouts.walk import Identity, LeftOut, count_reasons, tell_left_out, walk


def unlabelled_images(places: Sequence[Path], class_names: Sequence[str], *, flag: str) -> LongTailedDataset:
    """Return images as a split whose labels are all 0, without meaning.

    Args:
        places: Image files, and folders whose images, at any depth, are taken in order of their names.
        class_names: The classes of the classifier that will see them.
        flag: The flag or argument that named the places, for messages.

    Returns:
        The images, relative to their common folder; files that are not complete images are named in `skipped`, and
        those that are no images, under the names that `places` give them, in `left_out`.

    Raises:
        FileNotFoundError: A place does not exist.
        ValueError: There is no image.
    """
    files: list[Path] = []
    left_out: list[LeftOut] = []
    seen: set[Identity] = set()
    for place in places:
        if place.is_dir():
            found = walk(place, seen=seen)
            files += [place / name for name in found.images]
            left_out += (replace(each, path=str(place / each.path)) for each in found.left_out)
        elif place.is_file():
            files.append(place)
        else:
            state, kind = (
                ("is no regular file", ValueError) if place.exists() else ("does not exist", FileNotFoundError)
            )
            raise kind(f"{flag}: got {place}, which {state}; expected images or folders")
    shown = name_some(places, 3)
    if not files:
        held = f" but {count_reasons(left_out)}" if left_out else ""
        raise ValueError(f"{flag}: got {shown} without an image{held}; expected .jpg, .png or other image files")
    tell_left_out(flag, left_out)
    if any(file.is_absolute() for file in files):
        files = [file.absolute() for file in files]
    root = Path(os.path.commonpath([file.parent for file in files]))
    names = [file.relative_to(root).as_posix() for file in files]
    index = index_files(root, names, source=shown)
    complete = [at for at in range(len(names)) if at not in index.reasons]
    if not complete:
        at, reason = next(iter(index.reasons.items()))
        raise ValueError(
            f"{flag}: got {shown} with {len(names)} files, none of which is a complete image: {names[at]} ({reason})"
        )
    if len(complete) < len(names):
        log.warning("%s: %d of %d files are not complete images", flag, len(names) - len(complete), len(names))
    paths, labels = tuple(names[at] for at in complete), np.zeros(len(complete), dtype=np.int64)
    return LongTailedDataset(
        root=root,
        paths=paths,
        labels=labels,
        sizes=index.sizes[complete],
        native=index.native[complete],
        class_names=tuple(class_names),
        split="unlabelled",
        fingerprint=fingerprint(paths, labels, index.stats[complete]),
        skipped=tuple(SkippedFile(names[at], reason) for at, reason in index.reasons.items()),
        left_out=tuple(left_out),
    )
