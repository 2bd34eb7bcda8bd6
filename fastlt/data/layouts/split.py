"""Divide class folders, or a table of images, into stratified train, val and test lists, without moving any file."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...config import check_range
from ...files import check_empty, check_regular, owned, replacing_set, sweep
from ...files.owning import LOCK
from ...runtime.log import log, name_some
from ..index import index_files
from .folders import beside_classes, list_classes
from .layout import SPLITS
from .listing import Listing
from .lists import ROOT_POINTER, unlistable
from .tables import are_classes, explain_unlabelled, find_tables, read_table
from .walk import LeftOut, look, reasons_as_json, tell_left_out, walk

_LISTS, _TRAIN, _CLASSES = "lists", "train.txt", "classes.txt"


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """What `split_folder` wrote.

    Attributes:
        out: Folder of the lists.
        num_classes: Number of classes.
        num_images: Images in "train", "val" and "test".
        num_reduced: Classes that gave fewer images to val and test than asked for, so that most stay in train.
        num_skipped: Files left out because they are not complete images.
        left_out: What else is left out, by reason.
    """

    out: Path
    num_classes: int
    num_images: dict[str, int]
    num_reduced: int
    num_skipped: int
    left_out: dict[str, list[str]]


def split_folder(
    root: Path | str,
    out: Path | str | None = None,
    *,
    val_per_class: int = 20,
    test_per_class: int = 50,
    seed: int = 0,
    strict: bool = False,
) -> SplitSummary:
    """Write train.txt, val.txt, test.txt and classes.txt for class folders, or for a table with images and classes.

    Every class gives the same number of images to val and to test, drawn at random; a class that would keep no more
    than half of its images gives fewer, in the same proportion: at least one and at most a third each. One of fewer
    than four images (three, without test) stays in train. The choice in a class depends only on its own files and the
    seed.

    Args:
        root: Holds one folder per class, with the class's images at any depth; or images at any depth and a table of
            them, train.csv or the like, with a column of images (image, image_id, file, ...) and one of classes (label,
            class, category, ...).
        out: Where the lists go; by default `root/lists`, where `open_splits(root)` finds them. In any other folder a
            `root.txt` is written beside them, so that `open_splits(out)` finds the images.
        val_per_class: Val images of each class, at least 1.
        test_per_class: Test images of each class; 0 writes no test list.
        seed: Key of the draws.
        strict: Whether a file that is not a complete image, or a picture of a kind that is not read, is an error
            instead of being left out.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: There are no classes, all are too small to keep most of their images in train, `out` holds other
            lists, `root` is already divided into train and val, or a number is out of range.
    """
    root = Path(root)
    out = root / _LISTS if out is None else Path(out)
    check_range("--val-per-class", val_per_class, low=1)
    check_range("--test-per-class", test_per_class, low=0)
    images, left_out = _list_classes(root, out)
    tell_left_out(root, left_out, strict=strict)
    images, num_skipped = _leave_out_broken(root, images, strict=strict)
    if wrong := unlistable(path for members in images.values() for path in members):
        raise ValueError(
            f"{root}: got {len(wrong)} images whose paths no list can hold, {name_some([*map(repr, wrong)], 3)}; "
            "expected none with a line break, a backslash or a space at either end; rename them"
        )
    classes = list(images)
    needed = 4 if test_per_class else 3
    if empty := [name for name in classes if not images[name]]:
        raise ValueError(
            f"{root}: got no image of {len(empty)} of {len(classes)} classes, {name_some(empty)}; expected one or "
            "more of each; add images, or move the class out of the folder"
        )
    if small := [f"{name} ({len(images[name])})" for name in classes if len(images[name]) < needed]:
        if len(small) == len(classes):
            raise ValueError(
                f"{root}: got too few images in every class, {name_some(small)}; expected at least {needed} in some, "
                "of which half stay in train; add images"
            )
        eased = " (--test-per-class 0 takes classes of 3)" if needed == 4 else ""
        log.warning(
            "%s: %d of %d classes have fewer than %d images, all of which stay in train: %s%s",
            root,
            len(small),
            len(classes),
            needed,
            name_some(small),
            eased,
        )
    quotas = {name: _quota(len(images[name]), val_per_class, test_per_class) for name in classes}

    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(classes):
        num_val, num_test = quotas[name]
        order = _shuffle(images[name], name, seed)
        parts = (("val", order[:num_val]), ("test", order[num_val : num_val + num_test]))
        for split, part in (*parts, ("train", order[num_val + num_test :])):
            lists[split].extend(f"{path} {label}\n" for path in sorted(part))
    _write(root, out, classes, {split: lines for split, lines in lists.items() if lines})
    return SplitSummary(
        out=out,
        num_classes=len(classes),
        num_images={split: len(lines) for split, lines in lists.items()},
        num_reduced=sum(quota != (val_per_class, test_per_class) for quota in quotas.values()),
        num_skipped=num_skipped,
        left_out=reasons_as_json(left_out),
    )


def _list_classes(root: Path, out: Path) -> tuple[dict[str, list[str]], list[LeftOut]]:
    """Return the images of each class, relative to the root, and what is left out."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected one that holds a folder a class")
    # A folder of lists, from this or an earlier split, is not a class
    here = look(root)
    folders = [
        name
        for name in here.folders
        if (root / name).resolve() != out.resolve() and not (root / name / _TRAIN).is_file()
    ]
    if (table := _read_table(root, folders)) is not None:
        labelled = zip(table.paths, table.labels.tolist(), strict=True)
        images: dict[str, list[str]] = {name: [] for name in table.class_names}
        for path, label in sorted(labelled):
            images[table.class_names[label]].append(path)
        return images, list(table.left_out)
    if "train" in folders:
        raise ValueError(f"{root}: got a train folder; expected class folders only; give one that is not split")
    images = {}
    left_out = beside_classes(here)
    for name, found in zip(folders, list_classes(root, folders), strict=True):
        # Nor is one that a split left unfinished
        if found.images or not (name == _LISTS or _is_started(root / name)):
            images[name] = [f"{name}/{file}" for file in found.images]
            left_out += (dataclasses.replace(each, path=f"{name}/{each.path}") for each in found.left_out)
    if not images:
        raise ValueError(f"{root}: got no folder in it; expected a folder a class, {root}/<class>/<image>")
    if not are_classes(list(images)):
        raise ValueError(explain_unlabelled(root, list(images)))
    return images, left_out


def _read_table(root: Path, folders: list[str]) -> Listing | None:
    """Return what a table beside the images says; None where there is none, or class folders come first."""
    tables = find_tables(root)
    if not tables:
        return None
    if len(tables) > 1:
        names = name_some([file.name for file in tables.values()])
        raise ValueError(f"{root}: got {names}; expected a set that is not split; give it to `fastlt train` as it is")
    try:
        table = read_table(tables["train"], root, split="train")
    except (ValueError, FileNotFoundError) as error:
        if not are_classes(folders):
            raise
        log.warning("%s; the class folders count", error)
        return None
    if set(table.class_names) & set(folders):
        log.info("%s: it is not used, since there are class folders", table.source)
        return None
    if len(table.class_names) < 2:
        raise ValueError(f"{table.source}: got one class, {table.class_names[0]}; expected several; check the column")
    if rest := set(walk(root).images).difference(table.paths):
        log.info("%s: %d images in %s are in no row, as %s", table.source, len(rest), root, name_some(sorted(rest), 3))
    return table


def _leave_out_broken(root: Path, images: dict[str, list[str]], *, strict: bool) -> tuple[dict[str, list[str]], int]:
    """Return the images without those that are not complete, and the number of these."""
    paths = [path for members in images.values() for path in members]
    reasons = {paths[at]: reason for at, reason in index_files(root, paths, source=str(root)).reasons.items()}
    if not reasons:
        return images, 0
    fault = f"{len(reasons)} of {len(paths)} files that are not complete images"
    named = name_some([f"{path} ({reason})" for path, reason in reasons.items()])
    if strict:
        raise ValueError(f"{root}: got {fault}: {named}; replace or remove them, or drop --strict to leave them out")
    log.warning("%s: %s are left out: %s", root, fault, named)
    return {name: [path for path in members if path not in reasons] for name, members in images.items()}, len(reasons)


def _is_started(folder: Path) -> bool:
    """Return whether a split has written lists to a folder, or was about to."""
    return any((folder / name).exists() for name in (LOCK, _CLASSES))


def _quota(count: int, num_val: int, num_test: int) -> tuple[int, int]:
    """Return how many of a class's images go to val and test: at least one each, at most a third each.

    Together they are fewer than half of the class, or half of one of four images. A class that is too small for one
    each gives none.
    """
    third = count // 3
    if count < (4 if num_test else 3):
        return 0, 0
    if num_test == 0:
        return min(num_val, third), 0
    room = max(2, (count - 1) // 2)
    if num_val + num_test <= room:
        return min(num_val, third), min(num_test, third)
    val = min(max(1, round(room * num_val / (num_val + num_test))), room - 1, num_val, third)
    return val, min(room - val, num_test, third)


def _shuffle(paths: list[str], name: str, seed: int) -> list[str]:
    """Return paths in a random order that depends only on the class's name and the seed."""
    key = hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "surrogateescape")).digest()
    draws = np.random.Philox(key=int.from_bytes(key[:16], "little")).random_raw(len(paths))
    return [paths[at] for at in np.argsort(draws, kind="stable").tolist()]


def _write(root: Path, out: Path, classes: list[str], lists: dict[str, list[str]]) -> None:
    texts = {f"{split}.txt": "".join(lines) for split, lines in lists.items()}
    texts[_CLASSES] = "".join(f"{name}\n" for name in classes)
    if out.resolve() not in (root.resolve(), (root / _LISTS).resolve()):
        texts[ROOT_POINTER] = f"{root.resolve()}\n"
    if out.exists() and not out.is_dir():
        check_empty("--out", out)
    with owned(out):
        sweep(out)
        there = [name for name in (*texts, *(f"{split}.txt" for split in SPLITS)) if (out / name).exists()]
        for name in there:
            check_regular(out / name)
            if name not in texts or (out / name).read_bytes() != _encode(texts[name]):
                raise ValueError(
                    f"--out: got {out}, whose {name} differs; remove it, or give another folder for the lists"
                )
        if set(there) == set(texts):
            return
        # The train list, by which a data set is found, comes last
        with replacing_set(out / _TRAIN) as aside:
            for name, text in texts.items():
                (aside / name).write_bytes(_encode(text))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
