"""Pack a data set into one tar per split with offsets, for fast random access; optionally with smaller images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...files import check_empty, replacing
from ...runtime.machine import resolve_threads
from ..dataset import LongTailedDataset
from ..image import decode_rgb
from ..tar import RECORD, Item, TarWriter
from .read import FORMAT, MANIFEST, Packing, read_manifest

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
        ValueError: `out` holds another pack or something else, or a number is out of range.
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
    """
    manifest = _claim(out, packing, {name: len(members) for name, members in names.items()})
    tell = progress or (lambda count: None)
    num_kept = 0
    threads = resolve_threads(num_threads)
    for name, members in names.items():
        tar, index = out / f"{name}.tar", out / f"{name}.npz"
        if not (index.is_file() and tar.is_file()):
            index.unlink(missing_ok=True)
            with contextlib.closing(TarWriter(tar)) as writer, ThreadPoolExecutor(threads) as pool:
                num_kept += len(writer)
                tell(len(writer))
                pending = range(len(writer), len(members))
                for at, item in zip(pending, _made_ahead(makers[name], pending, pool, _AHEAD * threads), strict=True):
                    writer.append(members[at], item)
                    tell(1)
                records = writer.finish()
                _write_index(out, name, members, labels[name], records)
                writer.place()
        else:
            num_kept += len(members)
            tell(len(members))
        with np.load(index, allow_pickle=False) as arrays:
            checksums = arrays["crc"]
        manifest["splits"][name] = {
            "num_images": len(members),
            "num_skipped": (skipped or {}).get(name, 0),
            "num_bytes": tar.stat().st_size,
            "fingerprint": _fingerprint(packing, name, checksums),
        }
        _write_manifest(out, manifest)
    manifest |= {"complete": True, "class_names": list(class_names)}
    _write_manifest(out, manifest)
    return PackSummary(
        out=out,
        num_images={name: len(members) for name, members in names.items()},
        num_kept=num_kept,
        num_bytes=sum(split["num_bytes"] for split in manifest["splits"].values()),
    )


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


def _write_index(out: Path, name: str, members: Sequence[str], labels: np.ndarray, records: np.ndarray) -> None:
    assert records.dtype == RECORD
    with replacing(out / f"{name}.txt") as partial:
        lines = (f"{member} {label}\n" for member, label in zip(members, labels.tolist(), strict=True))
        partial.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    with replacing(out / f"{name}.npz") as partial, partial.open("wb") as stream:
        np.savez(
            stream,
            offsets=records["offset"],
            lengths=records["length"],
            crc=records["crc"],
            sizes=np.stack([records["width"], records["height"]], axis=1),
            native=records["native"],
            labels=labels.astype(np.int64),
            names=np.frombuffer("\0".join(members).encode("utf-8", "surrogateescape"), np.uint8),
        )


def _fingerprint(packing: Packing, name: str, checksums: np.ndarray) -> str:
    """Return the source's fingerprint if all bytes were kept, so that its runs accept the pack; else a new one."""
    if packing.short_side is None:
        return packing.sources[name]
    digest = hashlib.sha256(f"{packing.sources[name]}\n{packing.short_side}\n{packing.quality}\n".encode())
    digest.update(checksums.tobytes())
    return digest.hexdigest()


def _claim(out: Path, packing: Packing, num_images: dict[str, int]) -> dict[str, Any]:
    """Record what `out` will hold, or check that an interrupted call recorded the same."""
    fields = packing.to_json()
    if (out / MANIFEST).is_file():
        manifest = read_manifest(out)
        if any(manifest.get(key) != value for key, value in fields.items()):
            raise ValueError(
                f"--out: got {out}, which holds a pack of other data or settings; give another folder, or remove it"
            )
        return manifest
    check_empty("--out", out)
    manifest = {"format": FORMAT, "complete": False, **fields, "planned": num_images, "splits": {}}
    _write_manifest(out, manifest)
    return manifest


def _write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    with replacing(out / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
