"""A tar of images with their offsets: any `tar` reads it, an image takes one read, interrupted writing can continue."""

from __future__ import annotations

import errno
import os
import tarfile
import time
import weakref
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import naming

RECORD = np.dtype(
    [("offset", "<i8"), ("length", "<i8"), ("crc", "<u4"), ("width", "<i4"), ("height", "<i4"), ("native", "?")]
)
"""An image in a tar: the offset, number and CRC-32 of its bytes, its size in pixels, and whether DALI decodes it as
`decode_rgb` does."""

_COMMIT_BYTES = 64 << 20
_COMMIT_S = 2.0  # the most that a killed process loses
_NAME = slice(0, 100)  # the name in a header


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
        crc: uint32 [N], CRC-32 of their bytes, which is checked when a process first reads an image.
    """

    file: Path
    offsets: np.ndarray
    lengths: np.ndarray
    crc: np.ndarray

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file and what was checked; another process does both itself."""
        return {"file": self.file, "offsets": self.offsets, "lengths": self.lengths, "crc": self.crc}

    @cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    @cached_property
    def _checked(self) -> np.ndarray:
        return np.zeros(len(self.lengths), np.bool_)

    def read(self, index: int) -> bytes:
        """Return the bytes of an image's file.

        Raises:
            OSError: The tar cannot be read, or the image is damaged.
        """
        length = int(self.lengths[index])
        # Not memory-mapped: a disk that fails would kill the process
        content = os.pread(self._descriptor, length, int(self.offsets[index]))
        if not self._checked[index]:
            if len(content) != length or zlib.crc32(content) != int(self.crc[index]):
                raise OSError(errno.EIO, "its bytes have changed since it was packed", str(self.file))
            self._checked[index] = True
        return content


class TarWriter:
    """A writer that appends images to a tar, and continues where an earlier writer of the same file stopped.

    A journal beside the tar has one record per image. Images reach the disk before their records, so that every image
    in the journal is complete, even after a power cut. Still the journal is not believed: an image is kept only if it
    stands where the one before it ends, under its own name, and its bytes have the checksum of the record.

    Args:
        file: The name of the finished tar; the unfinished one has a temporary name.
        names: The names of all images, in order.
    """

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        self._file = file
        self._names = names
        self._partial = file.with_name(f".{file.name}.partial")
        self._journal = _journal(file)
        self._pending: list[np.ndarray] = []
        self._pending_bytes = 0
        self._committed_s = time.monotonic()
        self._end = 0
        self.records: list[np.ndarray] = []
        with self._naming():
            self._take_over()
            self._stream = self._partial.open("r+b" if self.records else "wb")
            self._stream.truncate(self._end)
            self._stream.seek(self._end)
            with self._journal.open("r+b" if self.records else "wb") as stream:
                stream.truncate(len(self.records) * RECORD.itemsize)

    def __len__(self) -> int:
        return len(self.records)

    def _naming(self) -> AbstractContextManager[None]:
        """Name the finished tar in errors: a failed write names a temporary file or none."""
        return naming(self._file, self._partial, self._journal)

    def _take_over(self) -> None:
        """Keep the images of an earlier writer, up to the first that is not what its record says."""
        if not (self._journal.is_file() and self._partial.is_file()):
            return
        journal = self._journal.read_bytes()
        records = np.frombuffer(journal[: len(journal) // RECORD.itemsize * RECORD.itemsize], RECORD)
        size = self._partial.stat().st_size
        with self._partial.open("rb") as stream:
            for name, record in zip(self._names, records, strict=False):
                length = int(record["length"])
                if not 0 <= length <= size - self._end:
                    return
                header = member_header(name, length)
                padding = bytes(-length % tarfile.BLOCKSIZE)
                if record["offset"] != self._end + len(header) or stream.read(len(header)) != header:
                    return
                content = stream.read(length)
                if zlib.crc32(content) != int(record["crc"]) or stream.read(len(padding)) != padding:
                    return
                self._end += len(header) + length + len(padding)
                self.records.append(record.copy())

    def append(self, item: Item) -> None:
        """Append the next image."""
        header = member_header(self._names[len(self.records)], len(item.content))
        record = np.zeros((), RECORD)
        record["offset"], record["length"] = self._end + len(header), len(item.content)
        record["crc"] = zlib.crc32(item.content)
        record["width"], record["height"], record["native"] = item.width, item.height, item.native
        padding = bytes(-len(item.content) % tarfile.BLOCKSIZE)
        with self._naming():
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
        with self._naming():
            self._stream.flush()
            os.fsync(self._stream.fileno())
            with self._journal.open("ab") as stream:
                stream.write(b"".join(record.tobytes() for record in self._pending))
                stream.flush()
                os.fsync(stream.fileno())
        self._pending, self._pending_bytes, self._committed_s = [], 0, time.monotonic()

    def finish(self) -> np.ndarray:
        """Finish the tar and return its records, RECORD [N]; call `place` once they are stored."""
        with self._naming():
            self._stream.write(bytes(2 * tarfile.BLOCKSIZE))
            self._stream.write(bytes(-self._stream.tell() % tarfile.RECORDSIZE))
        self.close()
        return np.array(self.records, RECORD)

    def place(self) -> None:
        """Give a finished tar its final name, and remove the journal."""
        with self._naming():
            self._partial.replace(self._file)
        discard_journal(self._file)

    def close(self) -> None:
        """Keep what was appended, so that another writer can continue."""
        if not self._stream.closed:
            try:
                self.commit()
            finally:
                with self._naming():
                    self._stream.close()


def member_header(name: str, length: int) -> bytes:
    """Return what stands before the bytes of a file in a tar."""
    info = tarfile.TarInfo(name)
    info.size = length
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def records_of(offsets: np.ndarray, lengths: np.ndarray, crc: np.ndarray) -> np.ndarray:
    """Return what `damage` compares N images with: RECORD [N], without what is not about their bytes."""
    records = np.zeros(len(offsets), RECORD)
    records["offset"], records["length"], records["crc"] = offsets, lengths, crc
    return records


def journal_length(file: Path) -> int:
    """Return the number of images that an unfinished tar has so far."""
    journal = _journal(file)
    return journal.stat().st_size // RECORD.itemsize if journal.is_file() else 0


def discard_journal(file: Path) -> None:
    """Remove the journal of a finished tar, if there is one."""
    _journal(file).unlink(missing_ok=True)


def _journal(file: Path) -> Path:
    return file.with_name(f".{file.name}.journal")


def damage(file: Path, record: np.ndarray | np.void, name: str) -> str | None:
    """Check an image in a tar by its header, its name and its CRC-32; return what is wrong, or None."""
    with naming(file), file.open("rb") as stream:
        start, length = int(record["offset"]), int(record["length"])
        stream.seek(start - tarfile.BLOCKSIZE)
        header, content = stream.read(tarfile.BLOCKSIZE), stream.read(length)
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return f"its header is damaged ({error})"
    if info.size != length:
        return f"its header says {info.size} bytes, expected {length}"
    if header[_NAME] != member_header(name, length)[-tarfile.BLOCKSIZE :][_NAME]:
        return f"its header says {info.name}"
    if len(content) != length or zlib.crc32(content) != int(record["crc"]):
        return "its bytes have changed"
    return None
