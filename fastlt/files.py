"""Atomic writing: a reader sees either the old content of a file or the new, never a part of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary name beside `file` to write to, and rename it to `file` when the block succeeds.

    The content is on the disk before the rename, so that a power cut leaves no incomplete file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except OSError as error:
        # Name the file in the error: a failed write names the temporary one or none at all
        if error.errno is not None and (error.filename is None or str(error.filename) == str(partial)):
            error.filename = str(file)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """Yield a temporary name beside `folder` for a folder to fill, and rename it to `folder` when the block succeeds.

    If two processes make the same folder at once, the first one's is kept.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_empty(flag: str, folder: Path) -> None:
    """Raise a ValueError unless a folder is absent or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{flag}: got {folder}, which is not empty; expected a new folder")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file does not hold a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: got {error}; expected a JSON object; restore or delete the file") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: got a {type(content).__name__}; expected a JSON object; restore or delete the file")
    return content
