"""Images in class folders that no list names, as those that were added after `fastlt data split`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...runtime.log import log, name_some
from ...runtime.output import quoted
from ..index import index_files
from ..layouts.listing import Listing, as_on_disk
from ..layouts.walk import subfolders, walk

_NUM_NAMED = 3


def tell_unlisted(listings: Mapping[str, Listing], *, cache: bool = True) -> None:
    """Warn of complete images in class folders that no list names.

    Only lists like those of `fastlt data split` are compared, whose paths begin with the folder of their class: others
    may leave images out on purpose. This reads the folders, which takes less time than asking for every file's size.

    Args:
        listings: The splits by name, all from list files.
        cache: As for `index_files`.
    """
    train = listings["train"]
    folders = _class_folders(listings)
    if not folders:
        return
    others = [
        name
        for name in subfolders(train.root)
        if name not in folders and not (train.root / name / train.source.name).is_file()
    ]
    listed = {path for listing in listings.values() for path in as_on_disk(listing).paths}
    found = [
        path
        for name in sorted({*folders, *others})
        for image in walk(train.root / name).images
        if (path := f"{name}/{image}") not in listed
    ]
    if not found:
        return
    index = index_files(train.root, found, source=str(train.root), cache=cache)
    if images := [path for at, path in enumerate(found) if at not in index.reasons]:
        lists: Path = train.source.parent
        log.warning(
            "%s: %d images in %s are in no list and are not used, as %s; to divide them too, remove the lists and "
            "repeat `fastlt data split %s`",
            lists,
            len(images),
            train.root,
            name_some(images, _NUM_NAMED),
            quoted(train.root),
        )


def _class_folders(listings: Mapping[str, Listing]) -> set[str]:
    """Return the folders that paths begin with, if they match the classes one to one; else nothing."""
    label_of: dict[str, int] = {}
    for listing in listings.values():
        for path, label in zip(as_on_disk(listing).paths, listing.labels.tolist(), strict=True):
            folder, slash, _ = path.partition("/")
            if not slash or label_of.setdefault(folder, label) != label:
                return set()
    return set(label_of) if len(set(label_of.values())) == len(label_of) > 1 else set()
