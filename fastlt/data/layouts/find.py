"""Find the splits of a data set on disk, and say what is wrong where there are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .coco import read_coco
from .folders import _holds_image, is_image, list_folder, subfolders
from .listing import _SPLIT_FOLDERS, Listing, name_some
from .lists import ROOT_POINTER, _find_lists, lists_folder, read_list


def find_splits(root: Path, named: dict[str, str], lists: Path | None = None) -> Iterator[tuple[str, Listing]]:
    """Find train, val and, if there is one, test; `fastlt.data.open_splits` states the order of search.

    Args:
        root: The data root.
        named: List or JSON files by split, where the caller names them.
        lists: The folder of the list files, if it is not one of those that are looked into anyway.
    """
    if not root.exists():
        raise FileNotFoundError(f"data root {root} does not exist; expected the folder of a data set (--data-root)")
    if not root.is_dir():
        raise ValueError(f"data root {root} is a file, expected the folder of a data set (--data-root)")
    if named:
        sources = {split: _find_named(root, lists, name) for split, name in named.items()}
    elif lists is not None:
        folder = lists_folder(root, lists)
        sources = _find_lists(folder)
        if not sources:
            raise FileNotFoundError(f"{folder} holds no train.txt; expected list files (train.txt, val.txt) (--lists)")
    else:
        sources = _find_unnamed(root)
    if "train" not in sources:
        raise ValueError(_explain_no_train(root))
    if "val" not in sources:
        raise ValueError(_explain_no_val(sources["train"], named=bool(named)))
    first: Listing | None = None
    for split, source in sources.items():
        listing = _list_source(root, source, first)
        first = first or listing
        if not listing.paths:
            raise ValueError(f"{source}: the {split} split is empty; add images, or see `fastlt data split`")
        yield split, listing


def _find_named(root: Path, lists: Path | None, name: str) -> Path:
    places = [Path(name), *([lists / name] if lists else []), root / name, root / "lists" / name]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{name} does not exist; looked for {', '.join(str(place) for place in places)}")


def _find_unnamed(root: Path) -> dict[str, Path]:
    for folder in (root, root / "lists"):
        if lists := _find_lists(folder):
            return lists
    for folder in (root, root / "annotations"):
        files = {split: sorted(folder.glob(f"{split}*.json")) for split in _SPLIT_FOLDERS}
        if files["train"]:
            for split, found in files.items():
                if len(found) > 1:
                    raise ValueError(
                        f"{folder} has several {split} files ({name_some([file.name for file in found])}); expected "
                        "one: move the others away"
                    )
            return {split: found[0] for split, found in files.items() if found}
    folders = {
        split: root / name for split, names in _SPLIT_FOLDERS.items() for name in names if (root / name).is_dir()
    }
    if "test" in folders and not subfolders(folders["test"]):
        # Challenge data often has a test folder of unlabelled images.
        del folders["test"]
    return folders


def _list_source(root: Path, source: Path, first: Listing | None) -> Listing:
    class_names = first.class_names if first else None
    if source.is_dir():
        folders = first.keys if first else None
        return list_folder(source, class_folders=folders, class_names=class_names)
    if source.suffix.lower() == ".json":
        return read_coco(source, root, categories=first.keys if first else None, class_names=class_names)
    pointer = root / ROOT_POINTER
    if pointer.is_file():
        root = root / pointer.read_text(encoding="utf-8").strip()
    return read_list(source, root, class_names=class_names)


def _explain_no_train(root: Path) -> str:
    """Say why a root without a train split is none, and which folder would be one where that can be seen."""
    wanted = f"expected {root}/train/<class>/<image>, train.txt or train*.json"
    names = subfolders(root)
    for name in names:
        if (root / name / "train").is_dir() or (root / name / "train.txt").is_file():
            return f"{root} has no train split, but {root / name} has: give that as data root (--data-root)"
    parent = root.resolve().parent
    if root.resolve().name in ("train", "val", "test") and (parent / "train").is_dir():
        return f"{root} is itself a split: give its parent {parent} as data root (--data-root)"
    holding = [name for name in names if _holds_image(root / name)]
    if holding:
        return (
            f"{root} has class folders only ({name_some(holding)}), {wanted}: make train, val and test lists with "
            f"`fastlt data split {root}` (no image is moved)"
        )
    if any(is_image(entry.name) for entry in os.scandir(root)):
        return f"{root} holds images without class folders, {wanted}: sort them into a folder a class"
    return f"{root} holds no data set, {wanted}: check the data root (--data-root)"


def _explain_no_val(train: Path, *, named: bool) -> str:
    """Say what was looked for where the train split was found, and what to do without it."""
    if named:
        return f"{train} is named for train, but nothing is for val; name both"
    if train.is_dir():
        return (
            f"{train.parent} has a train split ({train.name}/) but no val split; expected val/<class>/<image> beside "
            f"it: add it, or make val from train with `fastlt data split {train}` and give {train} as data root "
            "(--data-root)"
        )
    wanted = "val*.json" if train.suffix.lower() == ".json" else "val.txt or *_val.txt"
    return f"{train.parent} has {train.name} but no list for val; expected {wanted} beside it"
