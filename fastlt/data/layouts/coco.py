"""COCO-style JSON with one category per image, as in iNaturalist 2018."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...files import read_json
from ...runtime.log import log, name_some
from .layout import file_layout
from .listing import Listing, first_unusable, nfc

Id = int | float | str

_INTEGER = re.compile("[+-]?[0-9]+")  # `int` takes 1_1 for 11 too


@dataclass(slots=True)
class _Image:
    id: Id
    file_name: str


@dataclass(slots=True)
class _Annotation:
    image_id: Id
    category_id: Id


@dataclass(slots=True)
class _Category:
    id: Id
    name: Id | None = None


@dataclass(slots=True)
class _Coco:
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = field(default_factory=list)


_REMEDY = "give COCO-style JSON: images (id, file_name) and annotations (image_id, category_id), one category an image"


def read_coco(
    file: Path,
    root: Path,
    *,
    categories: tuple[Id, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
    shown: bool = True,
) -> Listing:
    """Read COCO-style JSON; `LongTailedDataset.from_coco` states the other arguments and the errors.

    Args:
        file: As for `from_coco`.
        root: As for `from_coco`.
        categories: As for `from_coco`.
        class_names: As for `from_coco`.
        shown: Whether `class_names` may be names to show, which are not the file's own.
    """
    content = read_json(file, _Coco, remedy=_REMEDY, foreign=True)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected the one that the images of {file} start from")
    try:
        images, category_of, names_of = _check(content)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{file}: got {error}; expected images with a file name and one category each; {_REMEDY}"
        ) from None
    used = sorted({category_of[image.id] for image in images}, key=_rank)
    if names_of and (unknown := [category for category in used if category not in names_of]):
        raise ValueError(
            f"{file}: got {len(unknown)} categories that are not among the {len(names_of)} listed, "
            f"{name_some(unknown)}; expected an entry for each; add them to its `categories`"
        )
    named = {category: name for category, name in names_of.items() if name is not None}
    if categories is None:
        categories = tuple(used)
        unused = [named.get(category, category) for category in sorted(names_of, key=_rank) if category not in used]
        if unused:
            log.info(
                "%s: %d of %d categories have no image and are left out: %s",
                file,
                len(unused),
                len(names_of),
                name_some(unused),
            )
        label_of = {category: label for label, category in enumerate(categories)}
    elif class_names is None or (shown and set(class_names).isdisjoint(named.values())):
        label_of = _match(file, used, {}, categories, tuple(map(str, categories)))
    else:
        label_of = _match(file, used, named, categories, class_names)
    names = tuple(named.get(category, str(category)) for category in categories)
    return Listing(
        root=root,
        paths=tuple(image.file_name for image in images),
        labels=np.array([label_of[category_of[image.id]] for image in images], np.int64),
        class_names=class_names or names,
        source=file,
        keys=categories,
    )


def _match(
    file: Path, used: list[Id], named: dict[Id, str], categories: tuple[Id, ...], class_names: tuple[str, ...]
) -> dict[Id, int]:
    """Return the class of each category that is used: the one with its name or, where either has none, with its id.

    Args:
        file: The file, for messages.
        used: Its categories.
        named: Their names, where they have one.
        categories: Ids of classes 0 .. C - 1 in train.
        class_names: Their names; the id where train has none.
    """
    by_id = {category: label for label, category in enumerate(categories)}
    by_name: dict[str, list[int]] = {}
    for label, name in enumerate(class_names):
        by_name.setdefault(nfc(name), []).append(label)
    label_of: dict[Id, int] = {}
    moved: list[str] = []
    wrong: list[str] = []
    unknown: list[str] = []
    for category in used:
        own, at = named.get(category), by_id.get(category)
        places = by_name.get(nfc(own), []) if own is not None else []
        bare = own is None or (not places and at is not None and class_names[at] == str(category))
        if at is not None and (bare or at in places):
            label_of[category] = at
        elif len(places) == 1:
            (label_of[category],) = places
            moved.append(f"{own} is {category} here and {categories[places[0]]} in train")
        elif at is None:
            unknown.append(str(category) if own is None else f"{category} ({own})")
        else:
            wrong.append(f"{category} is {own} here and {class_names[at]} in train")
    if wrong:
        raise ValueError(
            f"{file}: got {len(wrong)} of {len(used)} categories under other names than in train "
            f"({name_some(wrong, 4)}); expected each category under one name; correct the `categories` of either file"
        )
    if unknown:
        raise ValueError(
            f"{file}: got {len(unknown)} categories that have no image in train, {name_some(unknown)}; expected those "
            "of train; add images of them to train, or take them out here"
        )
    if moved:
        log.info("%s: %d categories have other ids than in train, matched by name: %s", file, len(moved), moved[0])
    return label_of


def _check(content: _Coco) -> tuple[list[_Image], dict[Id, Id], dict[Id, str | None]]:
    """Return the images, the category of each by its id, and the name of each category that is listed.

    Raises:
        ValueError: They do not fit together.
        OverflowError: A category is an infinite number.
    """
    images = content.images
    for key, entries in (("images", images), ("annotations", content.annotations)):
        if not entries:
            raise ValueError(f"no {key!r}")
    category_of: dict[Id, Id] = {}
    for entry in content.annotations:
        category = _plain(entry.category_id)
        if (first := category_of.setdefault(entry.image_id, category)) != category:
            raise ValueError(f"several categories of image {entry.image_id} ({first}, {category})")
    bare = [image.file_name for image in images if image.id not in category_of]
    if bare:
        raise ValueError(f"{len(bare)} images without an annotation ({name_some(bare)})")
    if (at := first_unusable([image.file_name for image in images])) is not None:
        raise ValueError(f"the file name {images[at].file_name[:80]!r} (images[{at}])")
    names: dict[Id, str | None] = {}
    for one in content.categories:
        name = None if one.name is None else str(one.name)
        if names.setdefault(_plain(one.id), name) != name:
            raise ValueError(f"two names of category {one.id} ({names[_plain(one.id)]}, {name})")
    return images, category_of, names


def _plain(category: Id) -> Id:
    """Return a category's id as an integer where it is one, however it is written; else its text."""
    if isinstance(category, float) and category != int(category):
        raise ValueError(f"category_id {category}")
    if isinstance(category, str) and not _INTEGER.fullmatch(category.strip()):
        return category.strip()
    return int(category)


def _rank(category: Id) -> tuple[bool, Id]:
    return isinstance(category, str), category


def _read(source: Path, root: Path, train: Listing | None) -> Listing:
    if train is None:
        return read_coco(source, root)
    return read_coco(source, root, categories=train.keys, class_names=train.class_names, shown=False)


COCO = file_layout("train*.json", file="{split}.json", pattern="{split}*.json", folders=("", "annotations"), read=_read)
