"""A tar of images with their offsets: any `tar` reads it, an image takes one read, interrupted writing can continue."""

from __future__ import annotations

import mmap
import os
import tarfile
import time
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RECORD = np.dtype(
    [("offset", "<i8"), ("length", "<i8"), ("crc", "<u4"), ("width", "<i4"), ("height", "<i4"), ("native", "?")]
)
"""An image in a tar: the offset, number and CRC-32 of its bytes, its size in pixels, and whether DALI decodes it as
`decode_rgb` does."""

_COMMIT_BYTES = 64 << 20
_COMMIT_S = 2.0  # the most that a killed process loses


class Item(NamedTuple):
    """An image to be packed: the bytes of its file, its size in pixels, and whether DALI decodes it as Pillow does."""

    content: bytes
    width: int
    height: int
    native: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class TarImages:
    """The images of a tar, by number.

    Attributes:
        file: The tar.
        offsets: int64 [N], where the images' bytes start.
        lengths: int64 [N], number of their bytes.
    """

    file: Path
    offsets: np.ndarray
    lengths: np.ndarray

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file; another process opens its own."""
        return {"file": self.file, "offsets": self.offsets, "lengths": self.lengths}

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.file.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, index: int) -> bytes:
        """Return the bytes of an image's file."""
        start = int(self.offsets[index])
        return self._map[start : start + int(self.lengths[index])]

    def view(self, index: int) -> np.ndarray:
        """Return the bytes of an image's file without copying them: uint8 [length]."""
        return np.frombuffer(self._map, np.uint8, int(self.lengths[index]), int(self.offsets[index]))


class TarWriter:
    """A writer that appends images to a tar, and continues where an earlier writer of the same file stopped.

    A journal beside the tar has one record per image. Images reach the disk before their records, so that every image
    in the journal is complete, even after a power cut.

    Args:
        file: The name of the finished tar; the unfinished one has a temporary name.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._partial = file.with_name(f".{file.name}.partial")
        self._journal = file.with_name(f".{file.name}.journal")
        self._pending: list[np.ndarray] = []
        self._pending_bytes = 0
        self._committed_s = time.monotonic()
        journal = self._journal.read_bytes() if self._journal.is_file() and self._partial.is_file() else b""
        records = np.frombuffer(journal[: len(journal) // RECORD.itemsize * RECORD.itemsize], RECORD)
        size = self._partial.stat().st_size if len(records) else 0
        ends = _padded(records["offset"] + records["length"])
        self.records: list[np.ndarray] = [record.copy() for record in records[: int((ends <= size).sum())]]
        self._end = int(ends[len(self.records) - 1]) if self.records else 0
        self._stream = self._partial.open("r+b" if self.records else "wb")
        self._stream.truncate(self._end)
        self._stream.seek(self._end)
        with self._journal.open("r+b" if self.records else "wb") as stream:
            stream.truncate(len(self.records) * RECORD.itemsize)

    def __len__(self) -> int:
        return len(self.records)

    def append(self, name: str, item: Item) -> None:
        """Append an image under a name."""
        info = tarfile.TarInfo(name)
        info.size = len(item.content)
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        record = np.zeros((), RECORD)
        record["offset"], record["length"] = self._end + len(header), len(item.content)
        record["crc"] = zlib.crc32(item.content)
        record["width"], record["height"], record["native"] = item.width, item.height, item.native
        padding = bytes(-len(item.content) % tarfile.BLOCKSIZE)
        self._stream.write(header + item.content + padding)
        added = len(header) + len(item.content) + len(padding)
        self._end += added
        self.records.append(record)
        self._pending.append(record)
        self._pending_bytes += added
        if self._pending_bytes >= _COMMIT_BYTES or time.monotonic() - self._committed_s >= _COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Write the appended images to the disk, then their records."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        with self._journal.open("ab") as stream:
            stream.write(b"".join(record.tobytes() for record in self._pending))
            stream.flush()
            os.fsync(stream.fileno())
        self._pending, self._pending_bytes, self._committed_s = [], 0, time.monotonic()

    def finish(self) -> np.ndarray:
        """Finish the tar and return its records, RECORD [N]; call `place` once they are stored."""
        self._stream.write(bytes(2 * tarfile.BLOCKSIZE))
        self._stream.write(bytes(-self._stream.tell() % tarfile.RECORDSIZE))
        self.close()
        return np.array(self.records, RECORD)

    def place(self) -> None:
        """Give a finished tar its final name, and remove the journal."""
        self._partial.replace(self._file)
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what was appended, so that another writer can continue."""
        if not self._stream.closed:
            try:
                self.commit()
            finally:
                self._stream.close()


def _padded(ends: np.ndarray) -> np.ndarray:
    return -(-ends // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def journal_length(file: Path) -> int:
    """Return the number of images that an unfinished tar has so far."""
    journal = file.with_name(f".{file.name}.journal")
    return journal.stat().st_size // RECORD.itemsize if journal.is_file() else 0


def damage(file: Path, record: np.ndarray) -> str | None:
    """Check an image in a tar by its header and CRC-32; return what is wrong, or None."""
    with file.open("rb") as stream:
        start, length = int(record["offset"]), int(record["length"])
        stream.seek(start - tarfile.BLOCKSIZE)
        header, content = stream.read(tarfile.BLOCKSIZE), stream.read(length)
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return f"its header is damaged ({error})"
    if info.size != length:
        return f"its header says {info.size} bytes, expected {length}"
    if len(content) != length or zlib.crc32(content) != int(record["crc"]):
        return "its bytes have changed"
    return None
