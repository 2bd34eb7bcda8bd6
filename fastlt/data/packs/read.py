"""Open a pack that `fastlt data pack` wrote."""

from __future__ import annotations

from pathlib import Path

from ...files import deciphering
from ..dataset import LongTailedDataset
from ..index import content_keys
from ..tar import TarImages, journal_length
from .manifest import MANIFEST, REMEDY, Manifest, check_hash, check_index, member_list, read_index, read_manifest


def is_pack(root: Path) -> bool:
    """Return whether a folder is a pack, finished or not."""
    return (root / MANIFEST).is_file()


def open_pack(root: Path, *, dataset: str | None = None) -> dict[str, LongTailedDataset]:
    """Open the splits of a pack, reading only its index.

    Args:
        root: The folder.
        dataset: The data set that is expected, as in `--dataset`; None takes any.

    Returns:
        The splits by name.

    Raises:
        ValueError: The pack is incomplete or damaged, or holds another data set.
    """
    manifest = read_manifest(root)
    if not manifest.complete:
        done = {name: journal_length(root / f"{name}.tar") for name in manifest.planned}
        done |= {name: split.num_images for name, split in manifest.splits.items()}
        state = ", ".join(f"{done[name]:,} of {planned:,} {name}" for name, planned in manifest.planned.items())
        raise ValueError(
            f"{root}: got an interrupted pack ({state} images); repeat `fastlt data pack` with the same arguments, "
            "which continues there, or give the original folder"
        )
    if dataset is not None and manifest.dataset not in (dataset, "folder"):
        raise ValueError(f"--dataset: got {dataset} for {root}, a pack of {manifest.dataset}; give one or the other")
    return {name: _open_split(root, name, manifest) for name in manifest.splits}


def _open_split(root: Path, name: str, manifest: Manifest) -> LongTailedDataset:
    tar, split = root / f"{name}.tar", manifest.splits[name]
    size = tar.stat().st_size if tar.is_file() else -1
    if size != split.num_bytes:
        got = f"{size:,} bytes" if size >= 0 else "no file"
        raise ValueError(f"{tar}: got {got}; expected {split.num_bytes:,} bytes; {REMEDY}")
    index = read_index(root, name)
    with deciphering(root / f"{name}.npz", expected="the index of this pack", remedy=REMEDY):
        check_index(index, num_images=split.num_images, num_bytes=size, num_classes=len(manifest.class_names))
        check_hash(index, split)
    return LongTailedDataset(
        root=tar,
        paths=member_list(index),
        labels=index["labels"],
        sizes=index["sizes"],
        native=index["native"],
        class_names=manifest.class_names,
        split=name,
        fingerprint=split.fingerprint,
        content=split.content,
        contents=content_keys(index["lengths"], index["crc"]),
        images=TarImages(file=tar, offsets=index["offsets"], lengths=index["lengths"], crc=index["crc"]),
    )
