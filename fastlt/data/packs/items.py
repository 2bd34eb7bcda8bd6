"""An image of a data set in the form in which it is packed: its bytes, and its name in the tar."""

from __future__ import annotations

import io

from ..dataset import LongTailedDataset
from ..image import decode_rgb
from ..tar import Item


def make_item(dataset: LongTailedDataset, index: int, *, short_side: int | None, quality: int) -> Item:
    """Return an image of a data set in the form to pack.

    A larger image is resized as by the evaluation transform, so that only the re-encoding can change accuracies. An
    image that cannot be decoded is kept as it is; the loaders replace it, as in an unpacked set.
    """
    from PIL import Image

    content = dataset.read(index)
    width, height = dataset.sizes[index].tolist()
    native = bool(dataset.native[index])
    short, long = min(width, height), max(width, height)
    if short_side is None or short <= short_side:
        return Item(content, width, height, native)
    try:
        pixels = decode_rgb(content)
    except ValueError:
        return Item(content, width, height, native)
    other = int(short_side * long / short)
    size = (other, short_side) if width >= height else (short_side, other)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).save(file, "JPEG", quality=quality)
    return Item(file.getvalue(), *size, True)


def member_names(dataset: LongTailedDataset, *, reencoded: bool) -> list[str]:
    """Return names for a data set's images in a tar: their paths, made unique and safe to extract."""
    names = []
    seen: dict[str, int] = {}
    for path in dataset.paths:
        name = "/".join("_" if part == ".." else part for part in path.split("/") if part not in ("", "."))
        stem, dot, suffix = name.rpartition(".")
        if reencoded and suffix.lower() not in ("jpg", "jpeg"):
            name, stem, dot, suffix = f"{name}.jpg", name, ".", "jpg"
        count = seen.get(name, 0)
        seen[name] = count + 1
        if count:
            name = f"{stem}~{count}{dot}{suffix}"
            seen[name] = 1
        names.append(name)
    return names
