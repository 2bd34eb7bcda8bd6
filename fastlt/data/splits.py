"""Open the train, val and test splits of a data set, whatever its layout."""

from __future__ import annotations

from pathlib import Path

from .dataset import LongTailedDataset, build_dataset
from .inspection.overlap import check_overlap
from .inspection.unlisted import tell_unlisted
from .layouts.find import find_splits, layout_of
from .layouts.listing import Listing
from .layouts.lists import LISTS


def open_splits(
    root: Path | str,
    *,
    lists: Path | str | None = None,
    train: str | None = None,
    val: str | None = None,
    test: str | None = None,
    strict: bool = False,
    cache: bool = True,
    needs_val: bool = True,
) -> dict[str, LongTailedDataset]:
    """Open the splits of a data set, whatever its layout.

    Tried in this order: the lists (`.txt`) or COCO-style files (`.json`) named by `train`, `val` and `test`; a pack
    written by `fastlt data pack`; list files `train.txt`, `val.txt`, `test.txt` (or `*_train.txt`, ...) in `lists`,
    `root` or `root/lists`; `train*.json`, `val*.json` in `root` or `root/annotations`; tables `train.csv`, `val.csv`,
    `test.csv` in `root` with a column of images and one of classes; class folders in `root/train`, `root/val`,
    `root/test`.

    Args:
        root: The data root. Where it has a `root.txt` (`fastlt data split` writes one), paths in list and JSON files
            start from the folder named there. A `classes.txt` beside the lists or in `root` names the classes, in the
            order of their numbers; it holds the names of class folders, or others to show.
        lists: The folder of the list files, where it is not `root` or `root/lists`.
        train: A list or JSON file, relative to the working folder, `lists`, `root`, or `root/lists`.
        val: The same for val.
        test: The same for test.
        strict: Whether a file that is not a complete image is an error instead of being skipped, and so is an image
            that two splits share, that is listed twice or that has two labels, instead of a warning.
        cache: Whether the index may be read from and written to the cache folder.
        needs_val: Whether data without val are refused.

    Returns:
        "train", "val" and, if there is one, "test"; all share the classes of "train".

    Raises:
        FileNotFoundError: The root, a split, or files that a list names do not exist.
        ValueError: A split that cannot be used.
    """
    named = {split: name for split, name in (("train", train), ("val", val), ("test", test)) if name is not None}
    place = None if lists is None else Path(lists)
    splits = read_splits(Path(root), named, lists=place, strict=strict, cache=cache, needs_val=needs_val)
    check_overlap(splits, strict=strict)
    return splits


def read_splits(
    root: Path,
    named: dict[str, str] | None = None,
    *,
    lists: Path | None = None,
    strict: bool = False,
    cache: bool = True,
    needs_val: bool = True,
) -> dict[str, LongTailedDataset]:
    """Open the splits of a data set as `open_splits` does, without a look at what they share.

    Args:
        root: The data root.
        named: The list or JSON file of every split, where they are named.
        lists: As for `open_splits`.
        strict: Whether a file that is not a complete image is an error.
        cache: As for `open_splits`.
        needs_val: As for `open_splits`.
    """
    from .packs.read import is_pack, open_pack

    if is_pack(root) and not named:
        return open_pack(root)
    listings: dict[str, Listing] = {}
    datasets: dict[str, LongTailedDataset] = {}
    for split, listing in find_splits(root, named or {}, lists, needs_val=needs_val):
        listings[split] = listing
        datasets[split] = build_dataset(listing, split=split, complete=split == "train", strict=strict, cache=cache)
    if not named and layout_of(listings["train"].source) is LISTS:
        tell_unlisted(listings, cache=cache)
    return datasets
