"""Image formats: which ones are read, and how a file of any name shows what it holds."""

from __future__ import annotations

import errno
import functools
import importlib.util
import os

from ...files.reading import open_regular

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".avif", ".heic", ".heif", ".hif"}
)
"""Suffixes by which a file counts as an image; indexing checks what it really holds."""

HEAD_BYTES = 32
"""Bytes at the start of a file that show its format."""

NEEDS = "cannot be read without"
"""What the reason of an image for which a library is missing says; the reason goes when the library comes."""

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

# Pictures in formats that are not read; TIFF's signature is also that of a camera's raw file, which has only a
# thumbnail in that form
_CAMERA_SUFFIXES = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"}
)
_FOREIGN_SUFFIXES = frozenset(
    {".psd", ".psb", ".xcf", ".svg", ".eps", ".jxl", ".jxr", ".exr", ".hdr", ".ico", ".tga", ".pcx", ".dcm", ".fits"}
)

# Opening a file of each of these, often one an image, would take long and find nothing
_DATA_SUFFIXES = frozenset(
    {".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".htm", ".log"}
    | {".py", ".ipynb", ".sh", ".npy", ".npz", ".pt", ".pth", ".pkl", ".mat", ".h5", ".db", ".xmp", ".ini", ".md5"}
    | {".zip", ".tar", ".gz", ".tgz", ".7z", ".pdf", ".mp4", ".mov", ".avi", ".aae"}
)

_REASONS = {
    errno.ENOENT: "a link to nothing",
    errno.ELOOP: "a link to nothing",
    errno.EACCES: "no right to read it",
    errno.EPERM: "no right to read it",
    errno.ENXIO: "no regular file",
}


def reason_to_leave_out(path: str, name: str) -> tuple[str, bool] | None:
    """Return why a file with an unusual name is no image that can be read, and whether it is a picture all the same.

    Args:
        path: The file.
        name: Its name.

    Returns:
        None if its first bytes are those of an image, whatever its name.

    Raises:
        OSError: The file cannot be read.
    """
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - half the time of pathlib's
    kind = f"suffix {suffix}" if suffix else "no suffix"
    if suffix in _DATA_SUFFIXES:
        return kind, False
    try:
        with open_regular(path) as file:
            head = file.read(HEAD_BYTES)
    except ValueError:
        return "no regular file", False
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        return _REASONS[error.errno], True
    found = image_format(head)
    if suffix in _CAMERA_SUFFIXES and found in (None, "TIFF"):
        return f"{suffix}, a camera's raw format, which is not read", True
    if found is not None:
        return None
    if suffix in _FOREIGN_SUFFIXES:
        return f"{suffix}, a format that is not read", True
    return kind, False


def image_format(head: bytes) -> str | None:
    """Return Pillow's name of the format whose first bytes are `head`; None if it is no image of a known format."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in (8, *range(16, len(head), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIF" if brands & set(_HEIF_BRANDS) else None
    if head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in range(12, 125):
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() and head[3:4] in b"#0123456789":
        return "PPM"
    return None


@functools.cache
def formats() -> tuple[str, ...]:
    """Return the formats that are images for certain; Pillow would also start Ghostscript for an EPS file."""
    from PIL import Image

    Image.init()
    if "HEIF" not in Image.OPEN and importlib.util.find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def explain_unidentified(data: bytes) -> str:
    """Return why Pillow takes bytes for no image: perhaps a library is missing."""
    found = image_format(data[:HEAD_BYTES])
    if found == "HEIF" and found not in formats():
        return f"an HEIC image, which {NEEDS} pillow-heif; pip install 'fastlt[heic]'"
    if found == "AVIF" and found not in formats():
        return f"an AVIF image, which {NEEDS} Pillow 11.3 or later; pip install -U pillow"
    return f"not an image (starts with {data[:8]!r})"
