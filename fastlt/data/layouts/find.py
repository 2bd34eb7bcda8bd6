"""Find the splits of a data set on disk, or explain why there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...runtime.log import name_some
from ...runtime.output import quoted
from .coco import COCO
from .folders import FOLDERS, count_images
from .identity import check_names, check_numbers, count_from_zero, in_range
from .layout import SPLITS, UNFINISHED, Layout, find_files
from .listing import Listing, read_class_names
from .lists import LISTS, lists_folder, start_folder
from .tables import TABLES, are_classes, explain_unlabelled, find_tables
from .walk import subfolders

LAYOUTS = (LISTS, COCO, TABLES, FOLDERS)
"""The layouts, in the order in which they are tried."""


def layout_of(source: Path) -> Layout:
    """Return the layout of a split's source; a file with any other suffix is taken for a list."""
    return next((layout for layout in LAYOUTS if layout.matches(source)), LISTS)


def find_splits(
    root: Path, named: dict[str, str], lists: Path | None = None, *, needs_val: bool = True
) -> Iterator[tuple[str, Listing]]:
    """Find train, val and, if there is one, test; `fastlt.data.open_splits` states the order of search.

    Args:
        root: The data root.
        named: List or JSON files by split, where the caller names them.
        lists: The folder of the list files, if it is not one that is searched anyway.
        needs_val: Whether val must be there.
    """
    if not root.is_dir():
        seen, error = ("is a file", ValueError) if root.exists() else ("does not exist", FileNotFoundError)
        raise error(f"--data-root: got {root}, which {seen}; expected the folder of a data set")
    if named:
        sources = {split: _find_named(root, lists, name) for split, name in named.items()}
    elif lists is not None:
        folder = lists_folder(root, lists)
        sources = find_files(folder, LISTS.file, LISTS.pattern) or find_tables(folder)
        if not sources:
            held = [file.name for split in SPLITS for file in sorted(folder.glob(LISTS.pattern.format(split=split)))]
            held += [LISTS.file.format(split=split) for split in SPLITS if (folder / f"{split}.txt").is_file()]
            held_text = f"{name_some(held)} but no list for train" if held else "no train.txt"
            raise FileNotFoundError(f"--lists: got {folder}, which holds {held_text}; expected train.txt and val.txt")
    else:
        sources = next(filter(None, (layout.find(root) for layout in LAYOUTS)), {})
    if "train" not in sources:
        raise ValueError(_explain_no_train(root))
    if needs_val and "val" not in sources:
        train = sources["train"]
        raise ValueError(
            f"{train}: got a list for train but none for val; name both"
            if named
            else layout_of(train).explain_no_val(train)
        )
    listings: dict[str, Listing] = {}
    for split, source in sources.items():
        layout = layout_of(source)
        start = start_folder(root) if layout is LISTS else root
        listings[split] = layout.read(source, start, listings.get("train"))
    names = None
    if all(layout_of(source) is LISTS for source in sources.values()):
        names = read_class_names(sources["train"].parent) or read_class_names(listings["train"].root)
        listings = count_from_zero(listings, names)
    for split, listing in listings.items():
        if layout_of(sources[split]) is not FOLDERS and in_range(listing):
            check_numbers(listing, listings["train"])
            check_names(listing, given=names is not None)
        yield split, listing


def _find_named(root: Path, lists: Path | None, name: str) -> Path:
    places = [Path(name), *([lists / name] if lists else []), root / name, root / "lists" / name]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{name}: no such file; looked for {', '.join(str(place) for place in places)}")


def _explain_no_train(root: Path) -> str:
    """Return the message for a root without a train split; name the folder that would do, if one is near."""
    expected = f"expected one with {' or '.join(layout.train for layout in LAYOUTS)}"
    if (root / UNFINISHED).is_dir():
        return (
            f"--data-root: got {root}, which `fastlt data synth` has not finished; expected a whole data set; repeat "
            "that command, which continues there"
        )
    starts = [layout.train.partition("/")[0] for layout in LAYOUTS]
    names = subfolders(root)
    for name in names:
        if any((root / name / start).exists() for start in starts):
            return f"--data-root: got {root}, which has no train split, but {root / name} has; give {root / name}"
    parent = root.resolve().parent
    if root.resolve().name in SPLITS and (parent / "train").is_dir():
        return f"--data-root: got {root}, which is itself a split; give its parent {parent}"
    if holding := [name for name in names if count_images(root / name)]:
        if not are_classes(holding):
            return explain_unlabelled(root, holding)
        return (
            f"--data-root: got {root}, which has class folders only ({name_some(holding)}); {expected}; make train, "
            f"val and test lists with `fastlt data split {quoted(root)}` (no image is moved)"
        )
    if count_images(root):
        return (
            f"--data-root: got {root}, which holds images without class folders; {expected}; sort them into a folder a "
            "class"
        )
    return f"--data-root: got {root}, which holds no data set; {expected}; check the path"
