"""Checksums of content, in pieces, so that they are computed by several threads and name what is damaged."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ..runtime.machine import resolve_threads

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
