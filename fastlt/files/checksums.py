"""Checksums of content, in pieces, so that they are computed by several threads and name what is damaged."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runtime.machine import resolve_threads
from .reading import check_regular

PIECE_BYTES = 4 << 20


def checksums(content: NDArray[np.uint8], piece_bytes: int = PIECE_BYTES) -> list[int]:
    """Return the CRC-32 of every piece of bytes [N], in order; a few GB/s a core.

    Args:
        content: The bytes, which may be memory-mapped.
        piece_bytes: Bytes of a piece; the last one may be shorter.

    Example:
        >>> import numpy as np
        >>> from fastlt.files.checksums import checksums
        >>> checksums(np.zeros(5, np.uint8), piece_bytes=4)
        [558161692, 3523407757]
    """
    pieces = [content[start : start + piece_bytes] for start in range(0, len(content), piece_bytes)]
    if len(pieces) < 2:
        return [zlib.crc32(piece.data) for piece in pieces]
    # zlib lets go of Python's lock
    with ThreadPoolExecutor(min(len(pieces), resolve_threads(None))) as pool:
        return list(pool.map(lambda piece: zlib.crc32(piece.data), pieces))


def file_checksums(path: Path) -> list[int]:
    """Return the checksums of a file's bytes; they are computed once a process as long as the file stays as it is.

    Raises:
        OSError: The file cannot be read.
    """
    check_regular(path)
    state = path.stat()
    return list(_of_file(path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))


@cache
def _of_file(path: Path, _dev: int, _ino: int, size: int, _mtime_ns: int) -> list[int]:
    return checksums(np.memmap(path, np.uint8, "r")) if size else []
