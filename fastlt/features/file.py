"""A file of features that is written in blocks, so that an interrupted extraction continues where it stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from torch import Tensor

from ..files import write_json
from ..runtime.log import log

# Shapes: N samples, B a few of them, D feature width.

SAVE_EVERY_S = 10.0  # an interrupted extraction loses no more than this
DTYPES = {"fp32": "<f4", "bf16": "<u2"}  # numpy has no bf16: its bits are kept as unsigned integers


class FeatureWriter:
    """Appends features to a .npy file of known shape, and records from time to time how many are safely in it.

    Args:
        path: The unfinished file.
        record: Where progress is recorded, with the key.
        key: What the features depend on; progress under another key is discarded.
        shape: (N, D) of the finished file.
    """

    def __init__(self, path: Path, record: Path, key: dict[str, Any], shape: tuple[int, int]) -> None:
        self.path, self.record, self.key, self.shape = path, record, key, shape
        progress = read_record(record)
        fits = progress.get("key") == key and progress.get("shape") == list(shape) and path.is_file()
        self.num_done: int = progress["num_done"] if fits else 0
        self.dtype = DTYPES[key["precision"]]
        self.saved_at = time.monotonic()

    def __enter__(self) -> Self:
        """Open the file behind its last complete block."""
        if not self.num_done:
            self.write_record()
        self.file: BinaryIO = self.path.open("r+b" if self.num_done else "w+b")
        header = {"descr": self.dtype, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.file.truncate(self.file.tell() + self.num_done * self.shape[1] * np.dtype(self.dtype).itemsize)
        self.file.seek(0, 2)
        return self

    def __exit__(self, *_: object) -> None:
        """Save and close the file, for a later try or for `finish`."""
        self.save()
        self.file.close()

    def append(self, features: Tensor) -> None:
        """Append float32 [B, D]."""
        if self.dtype == DTYPES["bf16"]:
            features = features.to(torch.bfloat16).view(torch.int16)
        self.file.write(features.cpu().contiguous().numpy().tobytes())
        self.num_done += len(features)
        if time.monotonic() - self.saved_at >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Flush the file to the disk, then record its progress: the record never claims more than is stored."""
        sync(self.file)
        if self.num_done < self.shape[0]:
            self.write_record()
        self.saved_at = time.monotonic()

    def finish(self) -> None:
        """Record that the file is complete, under its final name."""
        if self.num_done != self.shape[0]:
            raise RuntimeError(f"{self.path}: got {self.num_done} of {self.shape[0]} images; the loader ended early")
        self.write_record()

    def write_record(self) -> None:
        """Write key, shape and progress."""
        write_json(self.record, {"key": self.key, "shape": list(self.shape), "num_done": self.num_done})


def sync(file: BinaryIO) -> None:
    """Flush a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def is_complete(record: Path, key: dict[str, Any], *files: Path) -> bool:
    """Return whether all features of a key are stored, in arrays that are as long as their headers say."""
    progress = read_record(record)
    complete = progress.get("key") == key and progress.get("num_done") == progress.get("shape", [None])[0]
    return complete and all(map(_is_complete_array, files))


def _is_complete_array(array: Path) -> bool:
    """Return whether an array can be mapped: one that is cut short cannot."""
    try:
        np.load(array, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return True


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of stored features; empty if there is none or it is damaged."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        record = json.loads(path.read_text())
        if isinstance(record, dict):
            return record
    return {}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from computing the same features at the same time."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.info("another process computes these features (%s): waiting for it", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
