"""Decode any image file to the same RGB pixels, and judge a file by its header without decoding it."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..files.reading import open_regular, read_regular, reason_of
from ..runtime.machine import resolve_threads
from .decoding.formats import explain_unidentified, formats
from .decoding.grey import grey_scale, tell_dark_colour, to_eight_bits
from .image_bounds import MAX_PIXELS, refuse_huge, refuse_opened, refuse_scans

if TYPE_CHECKING:
    from PIL import Image

# Errors of this machine, not of a broken file
_MACHINE_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

STRIP_PIXELS = 1 << 20
_HEAD_BYTES = 16384
_TAIL_BYTES = 4096
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_HUFFMAN_DCT_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_LUMA_SAMPLINGS = frozenset({0x11, 0x12, 0x21, 0x22, 0x41})


@dataclass(frozen=True)
class ImageInfo:
    """What a header tells about an image file.

    Attributes:
        width: Pixels, EXIF orientation ignored.
        height: Pixels, EXIF orientation ignored.
        native: Whether DALI decodes the file to the same pixels as `decode_rgb` (a plain 8-bit JPEG or PNG of one or
            three channels); any other file has to be decoded by Pillow.
        digest: Hash of what was read of the file, 64 bits: the first 16 KiB and the last 4 KiB of a JPEG or PNG that
            its header describes, all of any other file. A PNG's end holds a checksum of its pixels, and a change in the
            middle of a JPEG shifts what follows.
    """

    width: int
    height: int
    native: bool
    digest: int = field(default=0, compare=False)


def decode_rgb(source: Path | bytes) -> np.ndarray:
    """Decode an image file to RGB, as Pillow's `convert("RGB")` sees it.

    The first frame is taken, EXIF orientation is ignored, alpha is dropped, 16-bit colour keeps its high byte, and
    greyscale of more than 8 bits is scaled from the depth that the file declares, or else from the least of 8, 10, 12,
    14 and 16 bits that holds its largest sample (floating point: from 0 to 1 where that holds it), which is said.

    Args:
        source: A file, or the bytes of one.

    Returns:
        uint8 [height, width, 3], writable.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, truncated, corrupt, not an image, too large, or too small for its image; the
            message names it.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from fastlt.data import decode_rgb
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 2), 255).save(file, "PNG")
        >>> decode_rgb(file.getvalue()).shape
        (2, 4, 3)
    """
    name = "image bytes" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else read_regular(source)
    try:
        return decode_bytes(data, name)
    except ValueError as error:
        raise ValueError(f"{name}: got an unreadable image, {error}; replace or remove the file") from None


def is_of_machine(error: BaseException) -> bool:
    """Return whether an error tells of this machine (no memory, too many open files) and not of a broken image file.

    Whatever else happens while a file is read or decoded is the file's fault.
    """
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _MACHINE_ERRORS)


def why(error: Exception) -> str:
    """Return why a file could not be read or decoded, without its name."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def probe(path: Path | str) -> ImageInfo:
    """Read the size and kind of an image file from its header, and check that the file is complete.

    A JPEG or PNG whose end marker stands near the end of the file is taken to be complete; any other file is decoded
    to find out.

    Args:
        path: The file.

    Returns:
        What the header says.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not a complete image; the message is the reason, without the name.
    """
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
        size = len(head)
        tail = head
        if size == _HEAD_BYTES:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
        if not head:
            raise ValueError("empty file")
        info = _probe_jpeg(head, tail, size, file) or _probe_png(head, tail, size)
        if info is None:
            return _probe_decoding(file, str(path))
        return replace(info, digest=_digest(head) if size == len(head) else _digest(head, tail))


def _probe_jpeg(head: bytes, tail: bytes, size: int, file: BinaryIO) -> ImageInfo | None:
    """Judge a JPEG by its header; return None where only a full decode can tell."""
    if not head.startswith(b"\xff\xd8"):
        return None
    scan = _scan_jpeg(head)
    if scan is None and size > len(head):
        file.seek(0)
        scan = _scan_jpeg(file.read(size))
    if scan is None:
        return None
    info, scan_start = scan
    end = tail.rfind(b"\xff\xd9")
    # An end marker cannot occur inside a scan (0xff is stuffed there), but an EXIF thumbnail has one before the scan.
    if end < 0 or size - len(tail) + end < scan_start:
        return None
    refuse_huge(info.width, info.height, size)
    return info


def _scan_jpeg(data: bytes) -> tuple[ImageInfo, int] | None:
    """Walk the marker segments up to the first scan; return what the frame header says, and where the scan starts."""
    info: ImageInfo | None = None
    adobe_transform = 1
    at, length = 2, len(data)
    while at + 4 <= length:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _STANDALONE_MARKERS:
            at += 2
            continue
        segment = int.from_bytes(data[at + 2 : at + 4])
        if at + 2 + segment > length:
            return None
        if marker == 0xEE and data[at + 4 : at + 9] == b"Adobe" and segment >= 14:
            adobe_transform = data[at + 15]
        elif marker in _FRAME_MARKERS:
            info = _jpeg_frame(marker, data[at + 4 : at + 2 + segment])
            if info is None:
                return None
        elif marker == 0xDA:
            if info is None:
                return None
            plain = info.native and adobe_transform == 1
            return ImageInfo(info.width, info.height, plain), at
        at += 2 + segment
    return None


def _jpeg_frame(marker: int, frame: bytes) -> ImageInfo | None:
    """Read a frame header (SOFn); return None when it is malformed or leaves the height to a later marker."""
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        return None
    height, width, num_components = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5]), frame[5]
    if width == 0 or height == 0:
        return None
    native = marker in _HUFFMAN_DCT_FRAMES and frame[0] == 8
    if num_components == 3:
        # libjpeg takes components named R, G, B for untransformed RGB; other decoders may not
        ids, samplings = frame[6::3][:3], frame[7::3][:3]
        native &= ids != b"RGB" and samplings[0] in _LUMA_SAMPLINGS and samplings[1:] == b"\x11\x11"
    else:
        native &= num_components == 1
    return ImageInfo(width, height, native)


def _probe_png(head: bytes, tail: bytes, size: int) -> ImageInfo | None:
    """Judge a PNG by its header; return None where only a full decode can tell."""
    if not head.startswith(_PNG_SIGNATURE) or head[12:16] != b"IHDR" or b"IEND" not in tail:
        return None
    width, height = int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    depth, colour, interlace = head[24], head[25], head[28]
    if width == 0 or height == 0:
        return None
    refuse_huge(width, height, size)
    if depth == 16 and colour == 0:
        return None  # decoding tells what its largest sample is
    native = depth == 8 and colour in (0, 2) and interlace == 0
    at = 33
    while native and head[at + 4 : at + 8] != b"IDAT":
        kind = head[at + 4 : at + 8]
        # Pillow decides about a transparent colour, a frame sequence, or a header longer than what was read
        native = len(kind) == 4 and kind not in (b"tRNS", b"acTL")
        at += 12 + int.from_bytes(head[at : at + 4])
    return ImageInfo(width, height, native)


@functools.cache
def _decoders() -> threading.BoundedSemaphore:
    """Return what lets only as many threads decode at once as there are processors: an image takes memory."""
    return threading.BoundedSemaphore(resolve_threads(None))


def _probe_decoding(file: BinaryIO, name: str) -> ImageInfo:
    file.seek(0)
    data = file.read()
    with _decoders():
        height, width, _ = decode_bytes(data, name).shape
    return ImageInfo(width, height, native=False, digest=_digest(data))


def _digest(*parts: bytes) -> int:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest()[:8])


def _refuse_bomb(data: bytes) -> None:
    """Refuse a huge JPEG or PNG by its header, before Pillow, which only warns, opens it."""
    if data.startswith(_PNG_SIGNATURE) and len(data) >= 24:
        refuse_huge(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), len(data))
    elif data.startswith(b"\xff\xd8"):
        scan = _scan_jpeg(data)
        if scan is not None:
            refuse_huge(scan[0].width, scan[0].height, len(data))
        refuse_scans(data, scan[1] if scan else 2)


def decode_bytes(data: bytes, name: str = "image bytes") -> np.ndarray:
    """Decode the bytes of an image file as `decode_rgb` does; an error's message is the bare reason.

    The name is for the warning that a depth was guessed.

    The types of the errors depend on the decoder and on where the file is damaged, so any is taken for a broken file
    unless it is this machine's (`is_of_machine`).
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ValueError("empty file")
    _refuse_bomb(data)
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            refuse_opened(image, data)
            if image.mode.startswith(("I", "F")):
                return _deep_grey_to_rgb(image, data, name)
            pixels = _to_rgb(image)
            tell_dark_colour(image, data, pixels, name=name)
            return pixels
    except UnidentifiedImageError:
        raise ValueError(explain_unidentified(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"more than the {MAX_PIXELS} pixels allowed") from None
    except Exception as error:
        if is_of_machine(error):
            raise
        reason = reason_of(error)
        raise ValueError(
            reason if isinstance(error, ValueError) else f"corrupt or truncated image ({reason})"
        ) from None


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Return an image's pixels, converted strip by strip: a whole one in Pillow's form and ours is memory enough."""
    image.load()
    return _by_strips(image, _strip_to_rgb)


def _deep_grey_to_rgb(image: Image.Image, data: bytes, name: str) -> np.ndarray:
    """Return the pixels of a greyscale image of more than 8 bits, scaled to 8."""
    image.load()
    extremes = [(strip.min(), strip.max()) for strip in map(np.asarray, _strips(image))]
    lowest, highest = np.min(extremes), np.max(extremes)  # which keep NaN
    scale = grey_scale(image, data, float(lowest), float(highest), name=name)
    return _by_strips(image, lambda strip: to_eight_bits(np.asarray(strip), scale)[:, :, None])


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    if rows >= height:
        yield image
        return
    for top in range(0, height, rows):
        yield image.crop((0, top, width, min(top + rows, height)))


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    top = 0
    for strip in _strips(image):
        pixels[top : top + strip.height] = convert(strip)
        top += strip.height
    return pixels


def _strip_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "P" and "transparency" in image.info:
        # The same pixels as a direct conversion, without Pillow's warning
        return np.asarray(image.convert("RGBA").convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
