"""COCO-style JSON with one category per image, as in iNaturalist 2018."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.log import name_some
from .layout import file_layout
from .listing import Listing


def read_coco(
    file: Path,
    root: Path,
    *,
    categories: tuple[int, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Listing:
    """Read COCO-style JSON; `LongTailedDataset.from_coco` states the arguments and errors."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected COCO-style JSON")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected the one that the images of {file} start from")
    try:
        content = json.loads(file.read_bytes())
        for key in ("images", "annotations"):
            if not (isinstance(content, dict) and isinstance(content.get(key), list) and content[key]):
                raise ValueError(f"no {key!r}")
        category_of: dict[Any, int] = {}
        for entry in content["annotations"]:
            image, category = entry["image_id"], int(entry["category_id"])
            if category_of.setdefault(image, category) != category:
                raise ValueError(f"several categories of image {image} ({category_of[image]}, {category})")
        images = [(entry["id"], str(entry["file_name"])) for entry in content["images"]]
        bare = [path for image, path in images if image not in category_of]
        if bare:
            raise ValueError(f"{len(bare)} images without an annotation ({name_some(bare)})")
        names_of = {int(entry["id"]): str(entry.get("name", entry["id"])) for entry in content.get("categories", ())}
    except (ValueError, KeyError, TypeError) as error:
        fault = f"an entry without the key {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{file}: got {fault}; expected COCO-style JSON, images (id, file_name) and annotations (image_id, "
            "category_id), one category an image; correct the file"
        ) from None
    categories = categories or tuple(sorted(names_of or set(category_of.values())))
    label_of = {category: label for label, category in enumerate(categories)}
    if unknown := sorted({category_of[image] for image, _ in images} - set(categories)):
        raise ValueError(
            f"{file}: got {len(unknown)} categories that are not among the {len(categories)} listed, "
            f"{name_some(unknown)}; expected those of train; add them to `categories` of the train file"
        )
    names = tuple(names_of.get(category, str(category)) for category in categories)
    return Listing(
        root=root,
        paths=tuple(path for _, path in images),
        labels=np.array([label_of[category_of[image]] for image, _ in images], np.int64),
        class_names=class_names or names,
        source=file,
        keys=categories,
    )


def _read(source: Path, root: Path, train: Listing | None) -> Listing:
    if train is None:
        return read_coco(source, root)
    return read_coco(source, root, categories=train.keys, class_names=train.class_names)


COCO = file_layout("train*.json", file="{split}.json", pattern="{split}*.json", folders=("", "annotations"), read=_read)
