"""Pack a data set into one tar per split with offsets, for fast random access; optionally with smaller images."""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...files import check_empty, owned, replacing, sweep
from ...runtime.machine import resolve_threads
from ..dataset import LongTailedDataset
from ..tar import RECORD, Item, TarWriter, damage, discard_journal, records_of
from .items import make_item, member_names
from .manifest import (
    MANIFEST,
    Manifest,
    PackedSplit,
    Packing,
    check_index,
    index_hash,
    member_list,
    read_index,
    read_manifest,
    write_manifest,
)

_AHEAD = 4  # images per thread that are read ahead of the thread that writes


@dataclass(frozen=True, kw_only=True)
class PackSummary:
    """What `pack` wrote.

    Attributes:
        out: Folder of the pack.
        num_images: Images of each split.
        num_kept: Images kept from an interrupted call.
        num_bytes: Bytes of all tars.
    """

    out: Path
    num_images: dict[str, int]
    num_kept: int
    num_bytes: int


def pack(
    splits: Mapping[str, LongTailedDataset],
    out: Path | str,
    *,
    dataset: str = "folder",
    short_side: int | None = None,
    quality: int = 95,
    num_threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> PackSummary:
    """Pack splits into a folder: for each a tar of its images, a list of them, and a file of offsets.

    Repeat an interrupted call to continue where it stopped.

    Args:
        splits: The splits by name.
        out: The folder: absent, empty, or begun by the same call.
        dataset: Data set, as in `--dataset`, for which the pack may be opened.
        short_side: Short side to which larger images are resized, pixels, as new JPEG files; None keeps every file.
        quality: Quality of re-encoded JPEG files, on Pillow's scale.
        num_threads: Threads that read and re-encode; by default one per processor, at most 16.
        progress: Called with the number of images done since its last call.

    Returns:
        What was written.

    Raises:
        ValueError: `out` holds another pack or something else, another process writes to it, or a number is out of
            range.
        OSError: An image cannot be read, `out` cannot be written, or the disk is full.
    """
    if short_side is not None and short_side < 8:
        raise ValueError(f"--short-side: got {short_side}; expected at least 8 pixels")
    if not 1 <= quality <= 100:
        raise ValueError(f"--quality: got {quality}; expected 1 to 100")
    packing = Packing(
        dataset=dataset,
        short_side=short_side,
        quality=quality if short_side else None,
        sources={name: split.fingerprint for name, split in splits.items()},
        contents={name: split.content for name, split in splits.items() if split.content},
    )
    names = {name: member_names(split, reencoded=short_side is not None) for name, split in splits.items()}

    def maker(split: LongTailedDataset) -> Callable[[int], Item]:
        return lambda index: make_item(split, index, short_side=short_side, quality=quality)

    train = splits["train"]
    return write_pack(
        Path(out),
        packing,
        class_names=train.class_names,
        names=names,
        labels={name: split.labels for name, split in splits.items()},
        makers={name: maker(split) for name, split in splits.items()},
        skipped={name: len(split.skipped) for name, split in splits.items()},
        num_threads=num_threads,
        progress=progress,
    )


def write_pack(
    out: Path,
    packing: Packing,
    *,
    class_names: Sequence[str],
    names: Mapping[str, Sequence[str]],
    labels: Mapping[str, np.ndarray],
    makers: Mapping[str, Callable[[int], Item]],
    skipped: Mapping[str, int] | None = None,
    num_threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> PackSummary:
    """Write a pack of images that functions make; `pack` states the rest.

    Args:
        out: The folder.
        packing: What is packed, and how.
        class_names: C names.
        names: Names of the images in the tar, by split.
        labels: int64 [N], by split.
        makers: For each split, a function that returns image number n; called from several threads.
        skipped: Files left out because they are not complete images, by split.
        num_threads: Threads that make images.
        progress: Called with the number of images done since its last call.

    Raises:
        ValueError: `out` holds another pack or something else, or another process writes to it.
    """
    if out.exists() and not out.is_dir():
        check_empty("--out", out)
    with owned(out):
        sweep(out)
        manifest = _claim(out, packing, {name: len(members) for name, members in names.items()})
        tell = progress or (lambda count: None)
        num_kept = 0
        for name, members in names.items():
            tar = out / f"{name}.tar"
            index = _finished_index(out, name, manifest, members, labels[name])
            if index is None:
                manifest = _open_again(out, name, manifest)
                with contextlib.closing(TarWriter(tar, members)) as writer:
                    num_kept += len(writer)
                    tell(len(writer))
                    _append_all(writer, len(members), makers[name], tell, num_threads=num_threads)
                    index = _write_index(out, name, members, labels[name], writer.finish())
                    writer.place()
            else:
                num_kept += len(members)
                tell(len(members))
                discard_journal(tar)
            packed = PackedSplit(
                num_images=len(members),
                num_skipped=(skipped or {}).get(name, 0),
                num_bytes=tar.stat().st_size,
                fingerprint=_identity(manifest, manifest.sources[name], index["crc"]),
                content=_identity(manifest, manifest.contents.get(name, ""), index["crc"]),
                index=index_hash(index),
            )
            manifest = replace(manifest, splits={**manifest.splits, name: packed})
            write_manifest(out, manifest)
        manifest = replace(manifest, complete=True, class_names=tuple(class_names))
        write_manifest(out, manifest)
    return PackSummary(
        out=out,
        num_images={name: len(members) for name, members in names.items()},
        num_kept=num_kept,
        num_bytes=sum(split.num_bytes for split in manifest.splits.values()),
    )


def _claim(out: Path, packing: Packing, planned: dict[str, int]) -> Manifest:
    """Record what `out` will hold, or check that an interrupted call recorded the same."""
    if (out / MANIFEST).is_file():
        manifest = read_manifest(out)
        if not manifest.is_of(packing):
            raise ValueError(
                f"--out: got {out}, which holds a pack of other data or settings; give another folder, or remove it"
            )
        return replace(manifest, contents=manifest.contents or packing.contents)
    check_empty("--out", out)
    manifest = Manifest(**packing.to_json(), complete=False, planned=planned, splits={})
    write_manifest(out, manifest)
    return manifest


def _finished_index(
    out: Path, name: str, manifest: Manifest, members: Sequence[str], labels: np.ndarray
) -> dict[str, np.ndarray] | None:
    """Return the index of a split that an earlier call has packed, or None.

    A split that is not in the manifest with its hash is read again: two processes of an earlier version may have
    written to it at once.
    """
    tar = out / f"{name}.tar"
    if not tar.is_file():
        return None
    num_bytes = tar.stat().st_size
    try:
        index = read_index(out, name)
        check_index(index, num_images=len(members), num_bytes=num_bytes, num_classes=int(labels.max(initial=0)) + 1)
    except (ValueError, FileNotFoundError):
        return None
    if member_list(index) != tuple(members) or not np.array_equal(index["labels"], labels):
        return None
    packed = manifest.splits.get(name)
    if packed is not None and (packed.num_bytes, packed.index) == (num_bytes, index_hash(index)):
        return index
    records = records_of(index["offsets"], index["lengths"], index["crc"])
    sound = all(damage(tar, record, member) is None for record, member in zip(records, members, strict=True))
    return index if sound else None


def _open_again(out: Path, name: str, manifest: Manifest) -> Manifest:
    """Take a split that has to be packed, or packed again, out of the manifest, and remove its index."""
    if name in manifest.splits or manifest.complete:
        others = {key: split for key, split in manifest.splits.items() if key != name}
        manifest = replace(manifest, complete=False, class_names=(), splits=others)
        write_manifest(out, manifest)
    (out / f"{name}.npz").unlink(missing_ok=True)
    return manifest


def _append_all(
    writer: TarWriter,
    num_images: int,
    make: Callable[[int], Item],
    tell: Callable[[int], None],
    *,
    num_threads: int | None,
) -> None:
    """Append the images that a writer does not have yet."""
    threads = resolve_threads(num_threads)
    with ThreadPoolExecutor(threads) as pool:
        for item in _made_ahead(make, range(len(writer), num_images), pool, _AHEAD * threads):
            writer.append(item)
            tell(1)


def _made_ahead(make: Callable[[int], Item], pending: range, pool: ThreadPoolExecutor, depth: int) -> Iterator[Item]:
    """Yield the images in order, a few of them made ahead by a pool of threads."""
    futures: deque[Future[Item]] = deque()
    try:
        for at in pending:
            futures.append(pool.submit(make, at))
            if len(futures) >= depth:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


def _write_index(
    out: Path, name: str, members: Sequence[str], labels: np.ndarray, records: np.ndarray
) -> dict[str, np.ndarray]:
    """Write the list and the index of a split; return the index."""
    assert records.dtype == RECORD
    index: dict[str, Any] = {
        "offsets": records["offset"],
        "lengths": records["length"],
        "crc": records["crc"],
        "sizes": np.stack([records["width"], records["height"]], axis=1),
        "native": records["native"],
        "labels": labels.astype(np.int64),
        "names": np.frombuffer("\0".join(members).encode("utf-8", "surrogateescape"), np.uint8),
    }
    with replacing(out / f"{name}.txt") as partial:
        lines = (f"{member} {label}\n" for member, label in zip(members, labels.tolist(), strict=True))
        partial.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    with replacing(out / f"{name}.npz") as partial, partial.open("wb") as stream:
        np.savez(stream, **index)
    return index


def _identity(packing: Packing, source: str, checksums: np.ndarray) -> str:
    """Return the source's hash if all bytes were kept, so that its runs accept the pack; else a new one."""
    if packing.short_side is None or not source:
        return source
    digest = hashlib.sha256(f"{source}\n{packing.short_side}\n{packing.quality}\n".encode())
    digest.update(checksums.tobytes())
    return digest.hexdigest()
