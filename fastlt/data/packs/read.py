"""Open a pack that `fastlt data pack` wrote, and check it byte by byte."""

from __future__ import annotations

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.log import name_some
from ...runtime.machine import resolve_threads
from ..dataset import LongTailedDataset
from ..tar import RECORD, TarImages, damage, journal_length

MANIFEST = "pack.json"
"""The file that marks a folder as a pack."""

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What is packed, and how.

    Attributes:
        dataset: Data set, as in `--dataset`.
        short_side: Short side to which larger images were resized, pixels; None if every file was kept as it is.
        quality: Quality of re-encoded JPEG files.
        sources: Fingerprint of each split's source.
    """

    dataset: str
    short_side: int | None
    quality: int | None
    sources: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def is_pack(root: Path) -> bool:
    """Return whether a folder is a pack, finished or not."""
    return (root / MANIFEST).is_file()


def read_manifest(root: Path) -> dict[str, Any]:
    """Return the manifest of a pack.

    Raises:
        ValueError: The manifest is damaged, or of another version.
    """
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{root / MANIFEST}: got damaged JSON; remove {root} and pack again") from None
    if version != FORMAT:
        raise ValueError(f"{root}: got format {version}; expected {FORMAT}; use the version of fastlt that packed it")
    return dict(manifest)


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
    if not manifest["complete"]:
        done = {name: journal_length(root / f"{name}.tar") for name in manifest["planned"]}
        done |= {name: split["num_images"] for name, split in manifest["splits"].items()}
        state = ", ".join(f"{done[name]:,} of {planned:,} {name}" for name, planned in manifest["planned"].items())
        raise ValueError(
            f"{root}: got an interrupted pack ({state} images); repeat `fastlt data pack` with the same arguments, "
            "which continues there, or give the original folder"
        )
    if dataset is not None and manifest["dataset"] not in (dataset, "folder"):
        raise ValueError(f"--dataset: got {dataset} for {root}, a pack of {manifest['dataset']}; give one or the other")
    return {name: _open_split(root, name, manifest) for name in manifest["splits"]}


def _open_split(root: Path, name: str, manifest: dict[str, Any]) -> LongTailedDataset:
    tar, split = root / f"{name}.tar", manifest["splits"][name]
    size = tar.stat().st_size if tar.is_file() else -1
    if size != split["num_bytes"]:
        got = f"{size:,} bytes" if size >= 0 else "no file"
        raise ValueError(
            f"{tar}: got {got}; expected {split['num_bytes']:,} bytes; copy the pack again, or remove it and pack again"
        )
    try:
        with np.load(root / f"{name}.npz", allow_pickle=False) as arrays:
            names = arrays["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            images = TarImages(file=tar, offsets=arrays["offsets"], lengths=arrays["lengths"])
            labels, sizes, native = arrays["labels"], arrays["sizes"], arrays["native"]
    except (OSError, ValueError, KeyError, EOFError):
        raise ValueError(
            f"{root / f'{name}.npz'}: got a damaged file; copy the pack again, or remove it and pack again"
        ) from None
    return LongTailedDataset(
        root=tar,
        paths=tuple(names),
        labels=labels,
        sizes=sizes,
        native=native,
        class_names=tuple(manifest["class_names"]),
        split=name,
        fingerprint=split["fingerprint"],
        images=images,
    )


def verify_pack(root: Path, *, num_threads: int | None = None) -> int:
    """Read every image of a pack and compare it with its checksum.

    Args:
        root: The folder.
        num_threads: Threads that read; by default one per processor, at most 16.

    Returns:
        The number of images.

    Raises:
        ValueError: The pack is incomplete, or images are damaged; the message names the first few.
    """
    splits = open_pack(root)
    damaged: list[str] = []
    with ThreadPoolExecutor(resolve_threads(num_threads)) as pool:
        for name, split in splits.items():
            with np.load(root / f"{name}.npz", allow_pickle=False) as arrays:
                records = np.zeros(len(split), RECORD)
                records["offset"], records["length"], records["crc"] = (
                    arrays[key] for key in ("offsets", "lengths", "crc")
                )
            faults = pool.map(functools.partial(damage, split.root), records)
            for path, fault in zip(split.paths, faults, strict=True):
                if fault is not None:
                    damaged.append(f"{split.root.name}: {path} ({fault})")
    if damaged:
        raise ValueError(
            f"{root}: got {len(damaged)} damaged images, {name_some(damaged)}; remove the pack and pack again"
        )
    return sum(map(len, splits.values()))
