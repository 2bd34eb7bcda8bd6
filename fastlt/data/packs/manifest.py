"""What a pack says about itself: `pack.json`, and the arrays of each split's index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...files import deciphering, read_arrays, read_json, replacing
from ...files.reading import convert
from ..image_bounds import MAX_PIXELS

MANIFEST = "pack.json"
"""The file that marks a folder as a pack."""

FORMAT = 1

REMEDY = "copy the pack again, or remove it and pack again"

INDEX = {
    "offsets": "<i8",
    "lengths": "<i8",
    "crc": "<u4",
    "sizes": "<i4",
    "native": "?",
    "labels": "<i8",
    "names": "u1",
}
"""The arrays of a split's index, and their types."""

_HEADER_BYTES = 512  # the least that stands before an image's bytes in a tar


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What is packed, and how.

    Attributes:
        dataset: Data set, as in `--dataset`.
        short_side: Short side to which larger images were resized, pixels; None if every file was kept as it is.
        quality: Quality of re-encoded JPEG files.
        sources: Fingerprint of each split's source.
        contents: Hash of each split's content, which tells a copy of the source; empty where one is not known.
    """

    dataset: str
    short_side: int | None
    quality: int | None
    sources: dict[str, str]
    contents: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PackedSplit:
    """A split that is packed.

    Attributes:
        num_images: Its images.
        num_skipped: Files left out because they are not complete images.
        num_bytes: Size of its tar.
        fingerprint: Fingerprint of the data set.
        content: Hash of its content; empty in packs of earlier versions.
        index: Hash of its index; None in packs of earlier versions.
    """

    num_images: int
    num_skipped: int = 0
    num_bytes: int
    fingerprint: str
    content: str = ""
    index: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest(Packing):
    """The content of `pack.json`.

    Attributes:
        complete: Whether everything is packed.
        planned: Images of each split.
        splits: The splits that are packed.
        class_names: C names, once the pack is complete.
    """

    complete: bool
    planned: dict[str, int]
    splits: dict[str, PackedSplit]
    class_names: tuple[str, ...] = ()

    def is_of(self, packing: Packing) -> bool:
        """Return whether the pack holds, or will hold, what another call packs."""
        settings = ("dataset", "short_side", "quality")
        same_source = self.sources == packing.sources or (self.contents and self.contents == packing.contents)
        return bool(same_source) and all(getattr(self, key) == getattr(packing, key) for key in settings)


def read_manifest(root: Path) -> Manifest:
    """Return the manifest of a pack.

    Raises:
        ValueError: The manifest is damaged, or of another version.
    """
    file = root / MANIFEST
    remedy = f"copy the pack again, or remove {root} and pack again"
    content = read_json(file, remedy=remedy)
    version = content.pop("format", FORMAT)
    if version != FORMAT:
        raise ValueError(f"{root}: got format {version}; expected {FORMAT}; use the version of fastlt that packed it")
    with deciphering(file, expected="a pack's description", remedy=remedy):
        if content.pop("checksum", None) not in (None, _checksum(content)):
            raise ValueError("its checksum differs")
        manifest = convert(content, Manifest)
        if any("/" in name or "\0" in name for name in manifest.planned):
            raise ValueError("a split's name is a path")
        if manifest.complete and (set(manifest.splits) != set(manifest.planned) or "train" not in manifest.splits):
            raise ValueError(f"it has the splits {', '.join(manifest.splits)} of {', '.join(manifest.planned)}")
    return manifest


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest of a pack, with a checksum of its content."""
    content = asdict(manifest)
    text = json.dumps({"format": FORMAT, **content, "checksum": _checksum(content)}, indent=1, ensure_ascii=True)
    with replacing(root / MANIFEST) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")


def _checksum(content: Mapping[str, Any]) -> str:
    """Return a hash of a manifest's content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_index(root: Path, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a split's index.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged.
    """
    return read_arrays(root / f"{name}.npz", INDEX, remedy=REMEDY)


def member_list(index: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the names of a split's images."""
    return tuple(index["names"].tobytes().decode("utf-8", "surrogateescape").split("\0"))


def index_hash(index: Mapping[str, np.ndarray]) -> str:
    """Return a hash of the arrays of an index."""
    digest = hashlib.sha256()
    for key, kind in INDEX.items():
        array = np.ascontiguousarray(index[key], kind)
        digest.update(f"{key} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def check_hash(index: Mapping[str, np.ndarray], split: PackedSplit) -> None:
    """Raise a ValueError unless an index is the one that the manifest is about."""
    if split.index not in (None, index_hash(index)):
        raise ValueError(f"its hash is not the one in {MANIFEST}")


def check_index(index: Mapping[str, np.ndarray], *, num_images: int, num_bytes: int, num_classes: int) -> None:
    """Raise a ValueError unless an index fits its tar: nothing in it leads outside the tar or to an endless image.

    Args:
        index: The arrays.
        num_images: Images of the split, N.
        num_bytes: Size of the tar.
        num_classes: C.
    """
    offsets, lengths, labels = index["offsets"], index["lengths"], index["labels"]
    expected = {"sizes": (num_images, 2), "names": index["names"].shape[:1]}
    for key, array in index.items():
        if array.shape != expected.get(key, (num_images,)):
            raise ValueError(f"{key} of the shape {array.shape} for {num_images} images")
    if len(member_list(index)) != num_images:
        raise ValueError(f"not {num_images} names")
    inside = (offsets >= _HEADER_BYTES) & (lengths >= 0) & (offsets <= num_bytes) & (lengths <= num_bytes - offsets)
    if not inside.all() or (offsets[1:] - _HEADER_BYTES < (offsets + lengths)[:-1]).any():
        raise ValueError(f"images that do not lie one after the other in {num_bytes:,} bytes")
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= num_classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {num_classes} classes")
    sides = index["sizes"].astype(np.int64)
    if sides.min(initial=1) < 1 or sides.prod(axis=1).max(initial=0) > MAX_PIXELS:
        raise ValueError("images without pixels, or with too many")
