"""Files that are whole or not there: a reader sees the old content or the new, never half of one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a temporary name beside ``file`` to write to; it takes the file's place when the block succeeds.

    The content is on the disk before it takes that place, so that not even a power cut leaves half a file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except OSError as error:
        # A failed write does not know its file, and nobody knows a temporary name
        if error.errno is not None and (error.filename is None or str(error.filename) == str(partial)):
            error.filename = str(file)
        raise
    finally:
        partial.unlink(missing_ok=True)
