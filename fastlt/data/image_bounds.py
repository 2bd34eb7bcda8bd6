"""Bounds on images: none takes memory or time out of all proportion to its file."""

from __future__ import annotations

import itertools
import re
import struct
from typing import Any

MAX_PIXELS = 89_478_485
"""Pixels (width * height) above which a file is refused as a decompression bomb; Pillow warns from there on."""

MAX_DENSITY = 100
"""Pixels a byte of its file above which a large image is refused; a photograph of 0.08 bits a pixel shows nothing."""

HEAVY_DENSITIES = {"AVIF": 60, "HEIF": 60, "WEBP": 40, "JPEG2000": 30}
"""The same for formats whose decoders take more than 7 bytes of memory a pixel: 700 bytes of memory a byte."""

FREE_PIXELS = 1 << 24
"""Pixels up to which an image's file may be as small as it likes, as a drawing of a few colours is."""

MAX_SCANS = 100
"""Scans above which a JPEG is refused; others have about ten, and each goes through all pixels however short it is."""

MAX_TILES = 16_384
"""Tiles times components above which a JPEG 2000 file is refused: the decoder takes 4 kB for each, empty or not."""

_SCAN = re.compile(rb"\xff\xda")  # `bytes.count` takes three times as long
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # one that starts a segment, or ends the image
_TILE_SIDES = (322, 323)  # TIFF's tags
_CODESTREAM = re.compile(rb"\xff\x4f\xff\x51")  # JPEG 2000's first two markers


def refuse_huge(width: int, height: int, num_bytes: int, *, density: int = MAX_DENSITY) -> None:
    """Raise a ValueError for an image with too many pixels, or with too many for a file of so many bytes."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than the {MAX_PIXELS} allowed")
    if width * height > max(FREE_PIXELS, density * num_bytes):
        raise ValueError(f"{width} x {height} pixels in {num_bytes} bytes, out of all proportion")


def refuse_scans(data: bytes, at: int) -> None:
    """Raise a ValueError for a JPEG with too many scans.

    Args:
        data: The file.
        at: Where its first scan, or any marker before that, is.
    """
    # Searching is quick, but also finds what a thumbnail or a film after the image holds
    if next(itertools.islice(_SCAN.finditer(data), MAX_SCANS, None), None) is None:
        return
    num_scans = 0
    while (found := _MARKER.search(data, at)) and data[found.start() + 1] != 0xD9:
        at = found.start() + 2
        num_scans += data[at - 1] == 0xDA
        if num_scans > MAX_SCANS:
            raise ValueError(f"more than the {MAX_SCANS} scans allowed")
        at += int.from_bytes(data[at : at + 2])


def refuse_opened(image: Any, data: bytes) -> None:
    """Raise a ValueError for an image that would take too much memory to decode.

    Args:
        image: The image, opened by Pillow but not decoded.
        data: Its file.
    """
    density = HEAVY_DENSITIES.get(image.format, MAX_DENSITY)
    refuse_huge(image.width, image.height, len(data), density=density)
    if image.format == "TIFF" and all(side in image.tag_v2 for side in _TILE_SIDES):
        # libtiff makes room for a tile, however small the image is
        width, height = (int(image.tag_v2[side]) for side in _TILE_SIDES)
        refuse_huge(width, height, len(data))
    if image.format == "JPEG2000":
        for found in _CODESTREAM.finditer(data):
            _refuse_tiles(data, found.end())


def _refuse_tiles(data: bytes, at: int) -> None:
    """Raise a ValueError for a JPEG 2000 codestream, whose size segment is at `at`, with too many tiles."""
    right, bottom, _, _, width, height, left, top, num_components = struct.unpack_from(">8IH", data, at + 4)
    if not (width and height):
        raise ValueError("tiles without pixels")
    num_tiles = -((left - right) // width) * -((top - bottom) // height)
    if num_tiles * num_components > MAX_TILES:
        raise ValueError(f"{num_tiles} tiles of {num_components} components, too many for an image")
