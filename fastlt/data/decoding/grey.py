"""Greyscale of more than 8 bits: how deep a file's samples are, and how they become 8 bits."""

from __future__ import annotations

import math
import multiprocessing
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.log import log

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners deliver; files hold them in 16 or 32 bits."""

_BITS_PER_SAMPLE, _MAX_SAMPLE, _FLOAT_MAX = 258, 281, 341  # TIFF's tags
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CODESTREAM = re.compile(rb"\xff\x4f\xff\x51")  # JPEG 2000's first two markers
_DEPTH_AT = 38  # bytes after them: the depth of the first component, less 1
_COMMENT = re.compile(rb"#[^\r\n]*")

_DARK = 16  # of 256: what 12 bits fill of 16
_DARK_COLOUR = -1

_told: set[int] = set()


def grey_scale(image: Any, data: bytes, lowest: float, highest: float, *, name: str) -> float:
    """Return what to divide the samples of a greyscale image by, to get 0 to 255.

    What the file declares decides: TIFF's tags, PNG's significant bits, a netpbm maximum. Where it declares nothing,
    the depth is the least of `DEPTHS` that holds the largest sample, and is said once; so a file has the same scale
    wherever it is read, but two files of one camera may differ if one of them is dark.

    Args:
        image: The image, in mode I, I;16 or F, opened by Pillow.
        data: Its file.
        lowest: Its smallest sample.
        highest: Its largest sample.
        name: The file, for messages.

    Raises:
        ValueError: Samples have no range of at most 16 bits; the message is the reason.
    """
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError("samples that are not finite")
    if lowest < 0 or highest > 65535:
        raise ValueError(f"samples from {lowest:g} to {highest:g}, expected 8 to 16 bits")
    declared = declared_maximum(image, data, highest)
    if declared is not None and highest <= declared:
        return declared / 255 if image.mode == "F" else (declared + 1) / 256
    if image.mode == "F" and highest <= 1:
        _tell(name, 1, "from 0 to 1")
        return 1 / 255
    bits = next(depth for depth in DEPTHS if highest < 1 << depth)
    _tell(name, bits, f"of {bits} bits")
    return float(1 << bits - 8)


def declared_maximum(image: Any, data: bytes, highest: float) -> float | None:
    """Return the largest sample that a file says it may have; None where it only says how samples are stored."""
    if image.format == "TIFF":
        tags = image.tag_v2
        if image.mode == "F":
            return _first(tags.get(_FLOAT_MAX))
        if (most := _first(tags.get(_MAX_SAMPLE))) is not None:
            return _full(int(most).bit_length())
        bits = _first(tags.get(_BITS_PER_SAMPLE))
        return _full(int(bits)) if bits is not None and bits < 16 else None
    if image.format == "PNG" and (significant := significant_bits(data)) is not None:
        # By the standard they are the upper ones of 16, but many programs leave them where they are
        return _full(significant) if highest <= _full(significant) else _full(16)
    # From other depths than 16 bits, which is also what programs write that know of none, Pillow has scaled to 16
    if image.format == "JPEG2000" and (found := _CODESTREAM.search(data)):
        return None if data[found.end() + _DEPTH_AT] == 15 else _full(16)
    if image.format == "PPM" and image.mode != "F":
        words = _COMMENT.sub(b" ", data[:1024]).split(maxsplit=4)
        return None if words[3:4] == [b"65535"] else _full(16)
    return None


def significant_bits(data: bytes) -> int | None:
    """Return the bits that a greyscale PNG file says are significant (its chunk sBIT); None if it does not say."""
    at = 33
    while data.startswith(_PNG_SIGNATURE) and len(data) >= at + 9 and (kind := data[at + 4 : at + 8]) != b"IDAT":
        if kind == b"sBIT":
            return data[at + 8] if 1 <= data[at + 8] <= 16 else None
        at += 12 + int.from_bytes(data[at : at + 4])
    return None


def to_eight_bits(samples: NDArray[Any], scale: float) -> NDArray[np.uint8]:
    """Return samples divided by a scale: integers cut off, as Pillow cuts 16-bit colour off, others rounded."""
    if samples.dtype.kind != "f":
        return (samples >> int(scale).bit_length() - 1).astype(np.uint8)
    return np.rint(np.minimum(samples / scale, 255)).astype(np.uint8)


def tell_dark_colour(image: Any, data: bytes, pixels: NDArray[np.uint8], *, name: str) -> None:
    """Say once that 16-bit colour, of which the upper bits are kept, comes out nearly black: it uses 12 or fewer."""
    if image.format == "PNG":
        deep = data[24:25] == b"\x10"
    else:
        deep = image.format == "TIFF" and _first(image.tag_v2.get(_BITS_PER_SAMPLE)) == 16
    if deep and 0 < pixels.max() < _DARK and _may_tell(_DARK_COLOUR):
        log.warning(
            "%s: colour of 16 bits that uses the lower 12 or fewer comes out nearly black; convert the files to 8 bits",
            name,
        )


def _full(bits: int) -> float:
    """Return the largest sample of some bits, at least 8."""
    return float((1 << max(8, bits)) - 1)


def _first(value: Any) -> float | None:
    """Return a tag's value, or the first of several."""
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < math.inf else None


def _tell(name: str, depth: int, words: str) -> None:
    """Say once for every depth that samples are taken to be of it."""
    others = _told - {depth, _DARK_COLOUR}
    if not _may_tell(depth):
        return
    differ = " where others are of another depth, so that their brightness differs" if others else ""
    log.warning(
        "%s: greyscale %s, judged by its largest sample%s; if that is wrong, convert the files to 8 bits or let them "
        "declare their depth (PNG sBIT, TIFF MaxSampleValue)",
        name,
        words,
        differ,
    )


def _may_tell(what: int) -> bool:
    """Return whether something was not said yet, and say it from now on; workers leave it to their parent."""
    if what in _told or multiprocessing.parent_process() is not None:
        return False
    _told.add(what)
    return True
