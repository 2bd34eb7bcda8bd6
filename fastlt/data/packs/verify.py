"""Check every image of a pack: against its checksum, or against its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...runtime.log import name_some
from ...runtime.machine import resolve_threads
from ..dataset import LongTailedDataset
from ..tar import damage, records_of
from .items import make_item, member_names
from .manifest import Manifest, read_manifest
from .read import open_pack


def verify_pack(
    root: Path, *, sources: Mapping[str, LongTailedDataset] | None = None, num_threads: int | None = None
) -> int:
    """Read every image of a pack and compare it with its checksum, or with its source.

    Args:
        root: The folder.
        sources: The splits that were packed: every image is made from its source once more, and must be the same, with
            the same name, label and size. None compares with the pack's own checksums.
        num_threads: Threads that read; by default one per processor, at most 16.

    Returns:
        The number of images.

    Raises:
        ValueError: The pack is incomplete, or images are damaged; the message names the first few.
        OSError: A source cannot be read.
    """
    manifest, splits = read_manifest(root), open_pack(root)
    if sources is not None and list(sources) != list(splits):
        raise ValueError(f"{root}: got a pack of {', '.join(splits)}; expected {', '.join(sources)}; pack again")
    damaged: list[str] = []
    with ThreadPoolExecutor(resolve_threads(num_threads)) as pool:
        for name, split in splits.items():
            if sources is None:
                check = _checksum_check(split)
            elif len(sources[name]) == len(split):
                check = _source_check(split, sources[name], manifest)
            else:
                raise ValueError(
                    f"{split.root}: got {len(split):,} images; expected {len(sources[name]):,}; remove the pack and "
                    "pack again"
                )
            for path, fault in zip(split.paths, pool.map(check, range(len(split))), strict=True):
                if fault is not None:
                    damaged.append(f"{split.root.name}: {path} ({fault})")
    if damaged:
        raise ValueError(
            f"{root}: got {len(damaged)} damaged images, {name_some(damaged)}; remove the pack and pack again"
        )
    return sum(map(len, splits.values()))


def _checksum_check(split: LongTailedDataset) -> Callable[[int], str | None]:
    """Return a function that says what is wrong with an image by its header and checksum, or None."""
    assert split.images is not None
    records = records_of(split.images.offsets, split.images.lengths, split.images.crc)
    return lambda at: damage(split.root, records[at], split.paths[at])


def _source_check(
    split: LongTailedDataset, source: LongTailedDataset, manifest: Manifest
) -> Callable[[int], str | None]:
    """Return a function that says how an image differs from what its source makes now, or None."""
    names = member_names(source, reencoded=manifest.short_side is not None)
    sound = _checksum_check(split)

    def check(at: int) -> str | None:
        if fault := sound(at):
            return fault
        if split.paths[at] != names[at]:
            return f"its source is called {names[at]}"
        if split.labels[at] != source.labels[at]:
            return f"label {split.labels[at]}, but {source.labels[at]} of its source"
        item = make_item(source, at, short_side=manifest.short_side, quality=manifest.quality or 0)
        if split.read(at) != item.content:
            kept = manifest.short_side is None
            return f"not {'the bytes of' if kept else 'what this version of Pillow makes of'} its source"
        if (*split.sizes[at].tolist(), bool(split.native[at])) != (item.width, item.height, item.native):
            return "another size or kind than its source"
        return None

    return check
