"""Size and kind of every image file of a split, probed once, in parallel, and stored in a cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ..files import read_arrays, replacing, reserved
from ..files.reading import decode_json
from ..runtime.cache import cache_dir
from ..runtime.log import log, name_some
from ..runtime.machine import resolve_threads
from .decoding.formats import NEEDS
from .image import ImageInfo, is_of_machine, probe, why

_VERSION = 2
_CHUNK = 64
_SLOW_S = 150e-6
_ARRAYS = {"stats": "<i8", "sizes": "<i4", "native": "?", "digests": "<u8", "reasons": "u1"}
_REMEDY = "delete it"
_UNREAD = "cannot be read"
_NO_FILE, _DANGLING = -1, -2  # in place of a size
_NO_IMAGE = ImageInfo(0, 0, native=False)
_UNOPENED = {_NO_FILE: "no regular file", _DANGLING: "a link to a file that does not exist"}


@dataclass(frozen=True, eq=False, kw_only=True)
class FileIndex:
    """What an index holds about N files.

    Attributes:
        stats: int64 [N, 2], size in bytes and modification time in ns.
        sizes: int32 [N, 2], width and height in pixels; (0, 0) for a file that is not a complete image.
        native: bool [N], whether DALI decodes the file as `decode_rgb` does.
        digests: uint64 [N], hashes of what `probe` read of each file; 0 for one that is not a complete image.
        reasons: Why a file is not a complete image, by its position.
    """

    stats: np.ndarray
    sizes: np.ndarray
    native: np.ndarray
    digests: np.ndarray
    reasons: dict[int, str]


def index_files(
    root: Path, paths: Sequence[str], *, source: str, cache: bool = True, num_threads: int | None = None
) -> FileIndex:
    """Probe the files, taking from the cache those whose size and modification time have not changed.

    Args:
        root: What `paths` are relative to.
        paths: N files.
        source: The list or folder that names the files, for messages.
        cache: Whether to read and write the cache. A cache folder that cannot be written is not an error.
        num_threads: Threads that probe. By default one while a file takes no longer than parsing its header, eight per
            processor once files must be decoded or waited for (a cold disk, a network).

    Raises:
        FileNotFoundError: Files are missing; the message counts them and names the first few.
    """
    prefix = f"{root}{os.sep}"
    stats = _stat(prefix, paths, source=source)
    if not cache:
        index, pending = _known(None, stats)
        return _probe_into(index, prefix, paths, pending, num_threads)
    file = cache_dir() / "index" / f"{index_key(root, paths)}.npz"
    index, pending = _known(_load(file, len(paths)), stats)
    if pending.size:
        with _in_turn(file):
            index, pending = _known(_load(file, len(paths)), stats)
            if pending.size:
                index = _probe_into(index, prefix, paths, pending, num_threads)
                _save(file, index)
    return index


def _known(cached: FileIndex | None, stats: np.ndarray) -> tuple[FileIndex, np.ndarray]:
    """Return (index, pending): what the cache knows about files that have not changed, and which are to be probed."""
    fresh = np.zeros(len(stats), np.bool_)
    sizes, native = np.zeros((len(stats), 2), np.int32), fresh.copy()
    digests = np.zeros(len(stats), np.uint64)
    reasons: dict[int, str] = {}
    if cached is not None:
        fresh = (cached.stats == stats).all(axis=1)
        sizes, native = cached.sizes.astype(np.int32), cached.native.copy()
        digests = cached.digests.astype(np.uint64)
        reasons = {at: reason for at, reason in cached.reasons.items() if fresh[at]}
    unopened = stats[:, 0] < 0
    reasons |= {at: _UNOPENED[stats[at, 0]] for at in np.flatnonzero(unopened).tolist()}
    reasons = dict(sorted(reasons.items()))
    index = FileIndex(stats=stats, sizes=sizes, native=native, digests=digests, reasons=reasons)
    return index, np.flatnonzero(~fresh & ~unopened)


def _probe_into(
    index: FileIndex, prefix: str, paths: Sequence[str], pending: np.ndarray, num_threads: int | None
) -> FileIndex:
    """Return an index with what probing the pending files tells."""
    reasons = dict(index.reasons)
    results = _probe_all(prefix, paths, pending, num_threads) if pending.size else ()
    for at, (info, reason) in zip(pending.tolist(), results, strict=True):
        index.sizes[at] = info.width, info.height
        index.native[at] = info.native
        index.digests[at] = info.digest
        if reason:
            reasons[at] = reason
    return replace(index, reasons=dict(sorted(reasons.items())))


@contextlib.contextmanager
def _in_turn(file: Path) -> Iterator[None]:
    """Let no two processes probe for the same entry of the cache at once, where the cache can be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(reserved(file, wait=True))
        yield


def index_key(root: Path, paths: Sequence[str]) -> str:
    """Return a hash of the files' paths, which names their entry in the cache."""
    digest = hashlib.sha256(f"{_VERSION}\n{root.resolve()}\n".encode())
    _hash_paths(digest, paths)
    return digest.hexdigest()[:32]


def fingerprint(paths: Sequence[str], labels: np.ndarray, stats: np.ndarray) -> str:
    """Return a hash of a split's paths, labels, sizes and modification times, the same in every process.

    Args:
        paths: N files, relative to their root.
        labels: int64 [N].
        stats: int64 [N, 2].
    """
    digest = hashlib.sha256()
    _hash_paths(digest, paths)
    digest.update(np.ascontiguousarray(labels, "<i8").tobytes())
    digest.update(np.ascontiguousarray(stats, "<i8").tobytes())
    return digest.hexdigest()


def content_hash(labels: np.ndarray, stats: np.ndarray, digests: np.ndarray) -> str:
    """Return a hash of a split's labels and content, in order, whatever its files are called and wherever they lie.

    Splits of one hash have, image by image, the same labels, the same sizes in bytes, and the same bytes in the parts
    that `ImageInfo.digest` covers.

    Args:
        labels: int64 [N].
        stats: int64 [N, 2], of which the sizes are taken.
        digests: uint64 [N].
    """
    digest = hashlib.sha256()
    for array, kind in ((labels, "<i8"), (stats[:, 0], "<i8"), (digests, "<u8")):
        digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()


def content_keys(lengths: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Return a number for each file that files of the same bytes share, and by all odds no others: uint64 [N].

    Args:
        lengths: [N] sizes in bytes.
        digests: [N] hashes of what the files hold.
    """
    spread = np.asarray(lengths).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys: np.ndarray = spread ^ np.asarray(digests).astype(np.uint64)
    return keys


def _hash_paths(digest: hashlib._Hash, paths: Sequence[str]) -> None:
    rest = iter(paths)
    while block := list(islice(rest, 65536)):
        digest.update("\0".join(block).encode("utf-8", "surrogateescape"))
        digest.update(b"\0")


def _stat(prefix: str, paths: Sequence[str], *, source: str) -> np.ndarray:
    stats = np.empty((len(paths), 2), np.int64)
    absent: list[str] = []
    for at, path in enumerate(paths):
        full = os.path.join(prefix, path)  # noqa: PTH118 - half the time of pathlib's
        try:
            status = os.stat(full)  # noqa: PTH116
        except (OSError, ValueError):  # a ValueError for a name that no file can have
            if os.path.islink(full):  # noqa: PTH114
                stats[at] = _DANGLING, 0
            else:
                absent.append(path)
            continue
        # Opening a pipe or a device may block forever
        size = status.st_size if stat.S_ISREG(status.st_mode) else _NO_FILE
        stats[at] = size, status.st_mtime_ns
    if absent:
        raise FileNotFoundError(
            f"{source}: got {len(absent)} of {len(paths)} files that do not exist under {prefix}, {name_some(absent)}; "
            "check the data root, or take them off the list"
        )
    return stats


def _probe_all(
    prefix: str, paths: Sequence[str], pending: np.ndarray, num_threads: int | None
) -> Iterator[tuple[ImageInfo, str]]:
    chunks = iter([pending[start : start + _CHUNK] for start in range(0, pending.size, _CHUNK)])
    if num_threads is None or num_threads == 1:
        # Python parses one header at a time in any case, so more threads help only where they wait
        for chunk in chunks:
            start_s = time.perf_counter()
            yield from _probe_chunk(prefix, paths, chunk)
            if num_threads is None and time.perf_counter() - start_s > _SLOW_S * len(chunk):
                break
    with ThreadPoolExecutor(num_threads or min(64, 8 * resolve_threads(None))) as pool:
        for results in pool.map(lambda chunk: _probe_chunk(prefix, paths, chunk), chunks):
            yield from results


def _probe_chunk(prefix: str, paths: Sequence[str], chunk: np.ndarray) -> list[tuple[ImageInfo, str]]:
    results = []
    for at in chunk.tolist():
        try:
            results.append((probe(os.path.join(prefix, paths[at])), ""))  # noqa: PTH118
        except ValueError as error:
            results.append((_NO_IMAGE, str(error)))
        except OSError as error:
            if is_of_machine(error):
                raise
            results.append((_NO_IMAGE, f"{_UNREAD} ({why(error)})"))
    return results


def _load(file: Path, num_files: int) -> FileIndex | None:
    try:
        arrays = read_arrays(file, _ARRAYS, remedy=_REMEDY)
        reasons = decode_json(arrays["reasons"].tobytes(), dict[int, str], source=file, remedy=_REMEDY)
    except (OSError, ValueError):
        return None
    index = FileIndex(**{name: array for name, array in arrays.items() if name != "reasons"}, reasons=reasons)
    shapes = (index.stats.shape, index.sizes.shape, index.native.shape, index.digests.shape)
    if shapes != ((num_files, 2), (num_files, 2), (num_files,), (num_files,)):
        return None
    if not all(0 <= at < num_files for at in reasons):
        return None
    return index


def _save(file: Path, index: FileIndex) -> None:
    reasons = np.frombuffer(json.dumps(index.reasons).encode(), np.uint8)
    # What could not be read (a disk, a permission, a library that is missing) is tried again next time
    stats = index.stats.copy()
    stats[[at for at, reason in index.reasons.items() if reason.startswith(_UNREAD) or NEEDS in reason]] = _NO_FILE
    try:
        with replacing(file) as partial, partial.open("wb") as stream:
            arrays = {"sizes": index.sizes, "native": index.native, "digests": index.digests, "reasons": reasons}
            np.savez(stream, stats=stats, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        log.warning("index not cached: %s; set FASTLT_CACHE to a folder that can be written", error)
