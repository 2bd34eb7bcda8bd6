"""COCO-style JSON with one category per image, as in iNaturalist 2018."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...files import read_json
from ...runtime.log import name_some
from .layout import file_layout
from .listing import Listing, first_unusable

Id = int | float | str


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
    categories: tuple[int, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Listing:
    """Read COCO-style JSON; `LongTailedDataset.from_coco` states the arguments and errors."""
    content = read_json(file, _Coco, remedy=_REMEDY, foreign=True)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected the one that the images of {file} start from")
    try:
        images, category_of, names_of = _check(content)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{file}: got {error}; expected images with a file name and one category each; {_REMEDY}"
        ) from None
    categories = categories or tuple(sorted(names_of or set(category_of.values())))
    label_of = {category: label for label, category in enumerate(categories)}
    if unknown := sorted({category_of[image.id] for image in images} - set(categories)):
        raise ValueError(
            f"{file}: got {len(unknown)} categories that are not among the {len(categories)} listed, "
            f"{name_some(unknown)}; expected those of train; add them to `categories` of the train file"
        )
    names = tuple(names_of.get(category, str(category)) for category in categories)
    return Listing(
        root=root,
        paths=tuple(image.file_name for image in images),
        labels=np.array([label_of[category_of[image.id]] for image in images], np.int64),
        class_names=class_names or names,
        source=file,
        keys=categories,
    )


def _check(content: _Coco) -> tuple[list[_Image], dict[Id, int], dict[int, str]]:
    """Return the images, the category of each by its id, and the categories' names.

    Raises:
        ValueError: They do not fit together.
        OverflowError: A category is an infinite number.
    """
    images = content.images
    for key, entries in (("images", images), ("annotations", content.annotations)):
        if not entries:
            raise ValueError(f"no {key!r}")
    category_of: dict[Id, int] = {}
    for entry in content.annotations:
        category = int(entry.category_id)
        if (first := category_of.setdefault(entry.image_id, category)) != category:
            raise ValueError(f"several categories of image {entry.image_id} ({first}, {category})")
    bare = [image.file_name for image in images if image.id not in category_of]
    if bare:
        raise ValueError(f"{len(bare)} images without an annotation ({name_some(bare)})")
    if (at := first_unusable([image.file_name for image in images])) is not None:
        raise ValueError(f"the file name {images[at].file_name[:80]!r} (images[{at}])")
    names = {int(entry.id): str(entry.id if entry.name is None else entry.name) for entry in content.categories}
    return images, category_of, names


def _read(source: Path, root: Path, train: Listing | None) -> Listing:
    if train is None:
        return read_coco(source, root)
    return read_coco(source, root, categories=train.keys, class_names=train.class_names)


COCO = file_layout("train*.json", file="{split}.json", pattern="{split}*.json", folders=("", "annotations"), read=_read)
