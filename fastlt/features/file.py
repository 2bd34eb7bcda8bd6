"""A file of features that is written in blocks, so that an interrupted extraction continues where it stopped."""

from __future__ import annotations

import contextlib
import io
import os
import time
import zlib
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import naming, read_array, read_json, replacing, write_json
from ..files.checksums import PIECE_BYTES, checksums, file_checksums
from ..runtime.log import log
from .arrays import Features

# Shapes: N samples, B a few of them, D feature width.

SAVE_EVERY_S = 10.0  # an interrupted extraction loses no more than this
DTYPES = {"fp32": "<f4", "bf16": "<u2"}  # numpy has no bf16: its bits are kept as unsigned integers
REMEDY = "it is computed again"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a file of features holds: rows `num_done` of (N, D) = `shape`, under a key.

    `checksums` are those of the file as far as it is written, `labels` those of the labels' file; files of earlier
    versions have none.
    """

    key: dict[str, Any]
    shape: tuple[int, int]
    num_done: int
    checksums: list[int] | None = None
    labels: list[int] | None = None


class Stored(NamedTuple):
    """The files of a split's features."""

    array: Path
    labels: Path
    record: Path

    @property
    def partial(self) -> Path:
        """The array while it is written."""
        return self.array.with_suffix(".partial")

    def read(self, key: dict[str, Any]) -> Features:
        """Return the features and labels that are stored under a key, after a look at every byte.

        Raises:
            FileNotFoundError: There are none, or not all of them.
            ValueError: A file is not as it was written.
        """
        record = read_record(self.record)
        if record is None or record.key != key or record.num_done != record.shape[0] or not self.array.is_file():
            raise FileNotFoundError(f"{self.array}: no such features; expected complete ones; compute them")
        for file, expected in ((self.array, record.checksums), (self.labels, record.labels)):
            if expected is not None and file_checksums(file) != expected:
                raise ValueError(f"{file}: got other bytes than were written; expected the same; {REMEDY}")
        # Copy-on-write: writable, which PyTorch wants, and the file stays as it is
        features = read_array(self.array, remedy=REMEDY, mmap_mode="c")
        labels = read_array(self.labels, remedy=REMEDY)
        if read_record(self.record) != record:  # it goes first when another process writes other features
            raise FileNotFoundError(f"{self.array}: got other features meanwhile; expected the same; compute them")
        fits = features.shape == record.shape and features.dtype == np.dtype(DTYPES[key["precision"]])
        if not fits or not features.flags.c_contiguous:
            raise ValueError(
                f"{self.array}: got {features.dtype} of shape {list(features.shape)}; expected {key['precision']} of "
                f"shape {list(record.shape)}; {REMEDY}"
            )
        if labels.shape != record.shape[:1] or not np.can_cast(labels.dtype, np.int64, "safe"):
            raise ValueError(
                f"{self.labels}: got {labels.dtype} of shape {list(labels.shape)}; expected {record.shape[0]} "
                f"integers; {REMEDY}"
            )
        return Features(features=features, labels=labels.astype(np.int64, copy=False))


class FeatureWriter:
    """Appends features to a .npy file of known shape, and records from time to time how many are safely in it.

    What an earlier try recorded is taken over as far as its checksums are right.

    Args:
        path: The unfinished file.
        record: Where progress is recorded, with the key.
        key: What the features depend on; progress under another key is discarded.
        shape: (N, D) of the finished file.
    """

    def __init__(self, path: Path, record: Path, key: dict[str, Any], shape: tuple[int, int]) -> None:
        self.path, self.record, self.key, self.shape = path, record, key, shape
        self.dtype = DTYPES[key["precision"]]
        self.row_bytes = shape[1] * np.dtype(self.dtype).itemsize
        self.header = header_of(self.dtype, shape)
        self.checksums: list[int] = []
        self.num_bytes = 0
        progress = read_record(record)
        if progress and progress.key == key and progress.shape == shape:
            self.take_over(progress)
        self.num_done = max(0, self.num_bytes - len(self.header)) // self.row_bytes
        self.saved_at = time.monotonic()

    def take_over(self, progress: Record) -> None:
        """Count the bytes of an earlier try that are whole rows and as they were written."""
        end = len(self.header) + progress.num_done * self.row_bytes
        if not self.path.is_file() or self.path.stat().st_size < end:
            return
        content = np.memmap(self.path, np.uint8, "r", shape=(end,))
        found = checksums(content)
        recorded = found if progress.checksums is None else progress.checksums
        same = [one == other for one, other in zip(found, recorded, strict=False)]
        good = same.index(False) if False in same else len(same)
        if good < len(found):
            log.info("%s: damaged after %s; computing the rest again", self.path, f"{good * PIECE_BYTES:,} bytes")
        rows = (min(good * PIECE_BYTES, end) - len(self.header)) // self.row_bytes
        if rows > 0 and content[: len(self.header)].tobytes() == self.header:
            self.num_bytes = len(self.header) + rows * self.row_bytes
            self.checksums = checksums(content[: self.num_bytes])

    def naming(self) -> AbstractContextManager[None]:
        """Name the finished file in what the machine reports."""
        return naming(self.path.with_suffix(".npy"), self.path)

    def __enter__(self) -> Self:
        """Open the file behind its last complete block."""
        with self.naming():
            self.file: BinaryIO = self.path.open("r+b" if self.num_done else "w+b")
            self.file.truncate(self.num_bytes)
            self.file.seek(self.num_bytes)
        if not self.num_done:
            self.write_record()
            self.write(self.header)
        return self

    def __exit__(self, *_: object) -> None:
        """Save and close the file, for a later try or for `finish`."""
        try:
            self.save()
        finally:
            with self.naming():
                self.file.close()

    def rounded(self, features: Tensor) -> Tensor:
        """Return features [B, D] in the file's precision."""
        return features.bfloat16() if self.dtype == DTYPES["bf16"] else features.float()

    def append(self, features: Tensor) -> None:
        """Append [B, D], on the CPU."""
        rows = self.rounded(features).contiguous()
        self.write((rows.view(torch.int16) if rows.dtype is torch.bfloat16 else rows).numpy().tobytes())
        self.num_done += len(features)
        if time.monotonic() - self.saved_at >= SAVE_EVERY_S:
            self.save()

    def write(self, content: bytes) -> None:
        """Append bytes, and keep the checksums up to date."""
        with self.naming():
            self.file.write(content)
        at = 0
        while at < len(content):
            filled = self.num_bytes % PIECE_BYTES
            part = content[at : at + PIECE_BYTES - filled]
            before = self.checksums.pop() if filled else 0
            self.checksums.append(zlib.crc32(part, before))
            self.num_bytes += len(part)
            at += len(part)

    def save(self) -> None:
        """Flush the file to the disk, then record its progress: the record never claims more than is stored."""
        with self.naming():
            self.file.flush()
            os.fsync(self.file.fileno())
        self.write_record()
        self.saved_at = time.monotonic()

    def finish(self, stored: Stored, labels: NDArray[np.int64]) -> None:
        """Give the complete file its final name, with the labels [N] beside it.

        Whatever comes first fails to match the record until all is there, and none of it has to be computed again.
        """
        if self.num_done != self.shape[0]:
            raise RuntimeError(f"{self.path}: got {self.num_done} of {self.shape[0]} images; the loader ended early")
        with replacing(stored.labels) as temporary, temporary.open("wb") as file:
            np.save(file, labels.astype(np.int64))
        self.write_record(file_checksums(stored.labels))
        with self.naming():
            self.path.replace(stored.array)

    def write_record(self, labels: list[int] | None = None) -> None:
        """Write key, shape, progress and checksums."""
        record = Record(key=self.key, shape=self.shape, num_done=self.num_done, checksums=self.checksums, labels=labels)
        write_json(self.record, {name: value for name, value in asdict(record).items() if value is not None})


def header_of(dtype: str, shape: tuple[int, int]) -> bytes:
    """Return the first bytes of a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def read_record(path: Path) -> Record | None:
    """Return the record of stored features; None if there is none or it is damaged."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_json(path, Record)
    return None
