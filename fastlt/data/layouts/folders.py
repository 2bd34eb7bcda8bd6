"""Class folders: one folder per class, with the class's images at any depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...runtime.log import log, name_some
from ...runtime.output import quoted
from ..decoding.formats import IMAGE_SUFFIXES
from .identity import order_folders
from .layout import SPLITS, Layout
from .listing import Listing, nfc, read_class_names
from .walk import BY_NAME, LOOSE, Found, Identity, LeftOut, claim, count_reasons, identity_of, look, subfolders, walk

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
    here = look(folder)
    present = here.folders
    own = {nfc(name): name for name in present}
    if len(own) < len(present):
        twice = [name for name in present if own[nfc(name)] != name]
        raise ValueError(
            f"{folder}: got {len(twice)} names twice, in two forms of Unicode, {name_some(twice)}; expected one folder "
            "a class; merge them"
        )
    if class_folders is None:
        if not present:
            held = f"{len(here.images)} images without class folders" if here.images else "an empty folder"
            raise FileNotFoundError(f"{folder}: got {held}; expected a folder a class, {folder}/<class>/<image>")
        if len(present) == 1 and len(inner := subfolders(folder / present[0])) > 1:
            raise ValueError(
                f"{folder}: got one class folder, {present[0]}, which holds folders itself ({name_some(inner)}); "
                f"expected {folder}/<class>/<image>; move the class folders one level up"
            )
        names = class_names or read_class_names(folder) or read_class_names(folder.parent) or ()
        names = tuple(own.get(nfc(name), name) for name in names)
        source = "class_names" if class_names else "classes.txt"
        class_folders = order_folders(folder, present, names, source) if names else tuple(present)
        class_names = names or class_folders
    elif unknown := sorted(own[name] for name in own.keys() - set(map(nfc, class_folders))):
        raise ValueError(
            f"{folder}: got {len(unknown)} classes that train lacks, {name_some(unknown)}; expected those of train; "
            "rename them as in train, or add their images to train"
        )
    else:
        class_names = class_names or class_folders
        class_folders = tuple(own.get(nfc(name), name) for name in class_folders)
    paths: list[str] = []
    left_out = beside_classes(here)
    counts = []
    for name, found in zip(class_folders, list_classes(folder, class_folders, apart), strict=True):
        paths.extend(f"{name}/{file}" for file in found.images)
        counts.append(len(found.images))
        left_out += (replace(each, path=f"{name}/{each.path}") for each in found.left_out)
        if not found.images and (missed := [each for each in found.left_out if each.reason not in BY_NAME]):
            raise ValueError(
                f"{folder / name}: got no image but {count_reasons(missed)}; expected "
                f"{', '.join(sorted(IMAGE_SUFFIXES)[:4])}, ...; convert or remove them"
            )
    return Listing(
        root=folder,
        paths=tuple(paths),
        labels=np.repeat(np.arange(len(class_folders), dtype=np.int64), counts),
        class_names=class_names or class_folders,
        source=folder,
        keys=class_folders,
        left_out=tuple(left_out),
    )


def beside_classes(here: Found) -> list[LeftOut]:
    """Return what is left out directly in a folder of class folders, where nobody expects other files to be images."""
    loose = [LeftOut(name, LOOSE, is_picture=True) for name in here.images]
    return loose + [each for each in here.left_out if each.is_picture or each.path.endswith("/")]


def list_classes(folder: Path, names: Sequence[str], apart: Iterable[Path] = ()) -> list[Found]:
    """Find the images of class folders; no folder may count for two classes, as links can make it do.

    Args:
        folder: Holds the class folders.
        names: The class folders; one that does not exist has no image.
        apart: Other folders that none of them may contain, as those of other splits.

    Returns:
        What a walk finds in each class.

    Raises:
        ValueError: A folder is reached as a part of two classes, or from a class folder that it holds.
    """
    classes: dict[Identity, Path] = {}
    for place in (folder, *(folder / name for name in names)):
        if place.is_dir():
            claim(place, classes)
    taken = {identity_of(place): place for place in apart} | classes
    return [walk(folder / name, taken) for name in names]


def count_images(folder: Path) -> int:
    """Count the images directly in a folder."""
    return len(look(folder).images)


def _find(root: Path) -> dict[str, Path]:
    folders = _split_folders(root)
    if folders and "test" not in folders and (root / "test").is_dir():
        log.info("%s: without class folders it is not opened; `fastlt predict` classifies images", root / "test")
    return folders


def _split_folders(root: Path) -> dict[str, Path]:
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
    others = [other for other in _split_folders(root).values() if not other.samefile(source)]
    apart = [place for other in others for place in _with_subfolders(other)]
    if train is None:
        return list_folder(source, apart=apart)
    return list_folder(source, class_folders=train.keys, class_names=train.class_names, apart=apart)


def _with_subfolders(folder: Path) -> list[Path]:
    return [folder, *(folder / name for name in subfolders(folder))]


def _explain_no_val(train: Path) -> str:
    return (
        f"{train.parent}: got a train split ({train.name}/) but no val split; expected val/<class>/<image> beside it; "
        f"add it, or make val from train with `fastlt data split {quoted(train)}` and give {train} as --data-root"
    )


FOLDERS = Layout(
    train="train/<class>/<image>", find=_find, matches=Path.is_dir, read=_read, explain_no_val=_explain_no_val
)
