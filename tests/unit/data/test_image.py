import errno
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin, features

from fastlt.data.image import decode_bytes, decode_rgb, probe
from fastlt.data.image_bounds import HEAVY_DENSITIES, MAX_DENSITY

WIDTH, HEIGHT = 46, 31


def picture():
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    channels = (columns * 5, rows * 8, 255 - columns * 3 - rows)
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


VARIANTS = {
    "jpeg": (lambda: encode(picture(), "JPEG", quality=95), True),
    "progressive": (lambda: encode(picture(), "JPEG", quality=95, progressive=True), True),
    "subsampled": (lambda: encode(picture(), "JPEG", quality=95, subsampling=2), True),
    "exif": (lambda: encode(picture(), "JPEG", quality=95, exif=oriented(6)), True),
    "icc": (lambda: encode(picture(), "JPEG", quality=95, icc_profile=bytes(100_000)), True),
    "trailing": (lambda: encode(picture(), "JPEG", quality=95) + bytes(500), True),
    "rgb-jpeg": (lambda: encode(picture(), "JPEG", quality=95, keep_rgb=True), False),
    "cmyk": (lambda: encode(picture().convert("CMYK"), "JPEG", quality=95), False),
    "png": (lambda: encode(picture(), "PNG"), True),
    "alpha": (lambda: encode(picture().convert("RGBA"), "PNG"), False),
    "gif": (lambda: encode(picture().quantize(256), "GIF"), False),
    "bmp": (lambda: encode(picture(), "BMP"), False),
    "webp": (lambda: encode(picture(), "WEBP", lossless=True), False),
    "tiff": (lambda: encode(picture(), "TIFF"), False),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_image_decodes_to_the_same_picture(variant, tmp_path):
    make, native = VARIANTS[variant]
    # The name says JPEG whatever the file holds.
    file = tmp_path / "image.jpg"
    file.write_bytes(make())
    info = probe(file)
    assert (info.width, info.height, info.native) == (WIDTH, HEIGHT, native)
    pixels = decode_rgb(file)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert np.abs(pixels.astype(int) - np.asarray(picture())).mean() < 6
    assert (decode_rgb(file.read_bytes()) == pixels).all()


@pytest.mark.parametrize(("file_format", "native"), [("JPEG", True), ("PNG", True), ("TIFF", False)])
def test_grey_images_have_three_equal_channels(file_format, native, tmp_path):
    file = tmp_path / "grey"
    file.write_bytes(encode(picture().convert("L"), file_format))
    assert probe(file).native is native
    pixels = decode_rgb(file)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert (pixels == pixels[:, :, :1]).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    for file_format in ("PNG", "TIFF"):
        file = tmp_path / f"deep.{file_format}"
        file.write_bytes(encode(Image.fromarray(levels), file_format))
        assert not probe(file).native
        pixels = decode_rgb(file)
        assert pixels.shape == (16, 16, 3)
        assert (pixels.reshape(-1, 3) == np.arange(256)[:, None]).all()


def test_palette_with_transparency_does_not_warn():
    image = picture().quantize(16)
    data = encode(image, "PNG", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (decode_rgb(data) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_counts(file_format, tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    file = tmp_path / "moving"
    file.write_bytes(encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options))
    assert not probe(file).native
    assert (decode_rgb(file) == (255, 0, 0)).all()


def test_a_complete_picture_without_end_marker_near_the_end_is_left_to_pillow(tmp_path):
    file = tmp_path / "padded.jpg"
    file.write_bytes(encode(picture(), "JPEG") + bytes(20_000))
    info = probe(file)
    assert (info.width, info.height, info.native) == (WIDTH, HEIGHT, False)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_a_truncated_file_is_found_and_named(file_format, tmp_path):
    data = encode(picture().resize((400, 300)), file_format)
    file = tmp_path / "cut.jpg"
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"truncated|not an image"):
        probe(file)
    with pytest.raises(ValueError, match=r"cut\.jpg: .*replace or remove"):
        decode_rgb(file)


def test_the_end_of_an_embedded_thumbnail_is_not_the_end_of_the_image(tmp_path):
    thumbnail = encode(picture(), "JPEG")
    data = encode(picture().resize((400, 300)), "JPEG")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    file = tmp_path / "thumb.jpg"
    file.write_bytes(data[:2] + segment + data[2:])
    assert probe(file).native
    file.write_bytes(data[:2] + segment + data[2 : len(data) // 2])
    with pytest.raises(ValueError, match="truncated"):
        probe(file)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404</html>", "not an image"),
        (b"\xff\xd8", "not an image|truncated"),
        (b"\x89PNG\r\n\x1a\n", "not an image|truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (bytes(1000), "not an image"),
    ],
    ids=["empty", "html", "jpeg-magic", "png-magic", "postscript", "zeros"],
)
def test_what_is_no_image_is_refused_with_a_reason(data, reason, tmp_path):
    file = tmp_path / "x.jpg"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        probe(file)
    with pytest.raises(ValueError, match=rf"x\.jpg: got .*({reason})"):
        decode_rgb(file)


def test_a_decompression_bomb_is_an_error_not_a_warning(tmp_path):
    data = bytearray(encode(picture(), "PNG"))
    data[16:24] = (20_000).to_bytes(4) + (5_000).to_bytes(4)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    file = tmp_path / "bomb.png"
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="20000 x 5000 pixels"):
            probe(file)
        with pytest.raises(ValueError, match=r"/bomb\.png: got .*\b20000 x 5000 pixels"):
            decode_rgb(file)


@pytest.mark.parametrize("at", [16, 20])
def test_a_header_without_pixels_is_not_believed(at, tmp_path):
    content = bytearray(encode(picture(), "PNG"))
    content[at : at + 4] = bytes(4)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"corrupt or truncated|not an image"):
        probe(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("colour", "depth", "interlace", "extra", "native"),
    [
        (2, 8, 0, b"", True),
        (0, 8, 0, b"", True),
        (3, 8, 0, b"", False),
        (6, 8, 0, b"", False),
        (2, 16, 0, b"", False),
        (2, 8, 1, b"", False),
        (2, 8, 0, b"tEXt", True),
        (2, 8, 0, b"tRNS", False),
        (2, 8, 0, b"acTL", False),
    ],
)
def test_a_png_is_native_where_nothing_but_plain_pixels_is_in_it(colour, depth, interlace, extra, native, tmp_path):
    def chunk(kind, content):
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = (7).to_bytes(4) + (5).to_bytes(4) + bytes([depth, colour, 0, 0, interlace])
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + (chunk(extra, b"a" * 6) if extra else b"")
    (tmp_path / "x.png").write_bytes(content + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    found = probe(tmp_path / "x.png")
    assert (found.width, found.height, found.native) == (7, 5, native)


@pytest.mark.parametrize(
    ("marker", "transform", "length", "native"),
    [(0xEE, 1, 14, True), (0xEE, 0, 14, False), (0xEE, 2, 14, False), (0xED, 0, 14, True), (0xEE, 0, 13, True)],
)
def test_only_adobes_own_segment_says_how_colours_are_coded(marker, transform, length, native, tmp_path):
    content = encode(picture(), "JPEG", quality=95)
    segment = (b"Adobe" + bytes(6) + bytes([transform]))[: length - 2]
    adobe = bytes([0xFF, marker]) + length.to_bytes(2) + segment
    (tmp_path / "x.jpg").write_bytes(content[:2] + adobe + content[2:])
    found = probe(tmp_path / "x.jpg")
    assert (found.width, found.height, found.native) == (WIDTH, HEIGHT, native)


def test_an_absent_file_is_an_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode_rgb(tmp_path / "none.jpg")


WHOLE = {name: make() for name, (make, _) in VARIANTS.items() if name != "icc"}


@given(
    variant=st.sampled_from(sorted(WHOLE)),
    cut=st.floats(0, 1),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
)
def test_damage_never_escapes_as_another_error(variant, cut, damage, tmp_path_factory):
    data = bytearray(WHOLE[variant])
    for place, value in damage:
        data[int(place * len(data))] = value
    data = bytes(data[: int(cut * len(data)) + 1])
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            info = probe(file)
        except ValueError:
            return
        try:
            pixels = decode_rgb(data)
        except ValueError:
            return
    assert pixels.shape == (info.height, info.width, 3)


DECODERS_ERRORS = [RuntimeError("no frame"), AssertionError(), LookupError("x"), RecursionError(), OSError("truncated")]


@pytest.mark.parametrize("error", DECODERS_ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_decoder_raises_is_a_broken_file(error, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise error

    file = tmp_path / "x.webp"
    file.write_bytes(encode(picture(), "WEBP"))
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match="corrupt or truncated"):
        probe(file)
    with pytest.raises(ValueError, match=r"x\.webp: .*corrupt or truncated"):
        decode_rgb(file)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "too many"), OSError(errno.ENOMEM, "none")])
def test_distress_of_the_machine_is_no_broken_file(error, monkeypatch):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(type(error)):
        decode_rgb(b"anything")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_a_damaged_avif_is_a_broken_file():
    data = bytearray(encode(picture(), "AVIF"))
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    with pytest.raises(ValueError, match=r"image bytes: got .*corrupt or truncated"):
        decode_rgb(bytes(data))


BIG = 4200
FLAT = {
    "L.PNG": ("L", "PNG", {}),
    "1.PNG": ("1", "PNG", {}),
    "P.GIF": ("P", "GIF", {}),
    "1.TIFF": ("1", "TIFF", {"compression": "group4"}),
    "RGB.WEBP": ("RGB", "WEBP", {"lossless": True, "method": 0}),
}


@pytest.mark.parametrize("kind", FLAT)
def test_a_small_file_of_a_huge_image_is_refused_before_it_is_decoded(kind, tmp_path, monkeypatch):
    mode, file_format, options = FLAT[kind]
    file = tmp_path / "bomb"
    file.write_bytes(encode(Image.new(mode, (BIG, BIG)), file_format, **options))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _self: pytest.fail("it was decoded"))
    for read in (probe, decode_rgb):
        with pytest.raises(ValueError, match=rf"{BIG} x {BIG} pixels in {file.stat().st_size} bytes"):
            read(file)


@pytest.mark.parametrize("kind", ["1.TIFF", "RGB.WEBP"])
def test_a_file_may_be_as_small_as_an_extreme_photograph(kind, monkeypatch):
    mode, file_format, options = FLAT[kind]
    data = encode(Image.new(mode, (BIG, BIG)), file_format, **options)
    loaded = []
    monkeypatch.setattr("fastlt.data.image._to_rgb", lambda image: loaded.append(image.size))
    least = BIG * BIG // HEAVY_DENSITIES.get(file_format, MAX_DENSITY) + 1
    decode_bytes(data + bytes(least - len(data)))
    assert loaded == [(BIG, BIG)]
    with pytest.raises(ValueError, match="out of all proportion"):
        decode_bytes(data + bytes(least - len(data) - 100))


def test_a_small_file_of_a_flat_image_is_accepted():
    assert decode_rgb(encode(Image.new("P", (3840, 2160), 3), "PNG")).shape == (2160, 3840, 3)


def test_the_size_of_a_tiffs_tiles_counts(tmp_path, monkeypatch):
    tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000, 324: 200, 325: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    file = tmp_path / "x.tif"
    file.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(300))
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", lambda _self: pytest.fail("it was decoded"))
    for read in (probe, decode_rgb):
        with pytest.raises(ValueError, match="40000 x 40000 pixels"):
            read(file)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
@pytest.mark.parametrize(("side", "num_components"), [(1, 3), (1, 1), (2, 3)])
def test_a_jpeg_2000_of_endless_tiles_is_refused(side, num_components, monkeypatch):
    data = bytearray(encode(picture().resize((200, 200)), "JPEG2000"))
    at = data.index(b"\xff\x4f\xff\x51")
    assert decode_rgb(bytes(data)).shape == (200, 200, 3)
    data[at + 24 : at + 32] = struct.pack(">II", side, side)
    data[at + 40 : at + 42] = struct.pack(">H", num_components)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _self: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="tiles"):
        decode_rgb(bytes(data))


def test_a_jpeg_of_endless_scans_is_refused_but_not_one_with_a_film_behind_it():
    data = encode(picture(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match="scans"):
        decode_rgb(data[:-2] + 200 * data[last:-2] + b"\xff\xd9")
    assert (decode_rgb(data + 200 * b"\xff\xda") == decode_rgb(data)).all()


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("RGB", "PNG"), ("RGBA", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("P", "PNG"), ("I;16", "PNG"),
        ("CMYK", "TIFF"), ("I", "TIFF"), ("YCbCr", "TIFF"), ("RGB", "JPEG"),
    ],
)  # fmt: skip
def test_strips_have_the_pixels_of_the_whole(mode, file_format, monkeypatch):
    image = (
        Image.fromarray(np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH))
        if mode.startswith("I")
        else picture().convert(mode)
    )
    data = encode(image.convert("I") if mode == "I" else image, file_format)
    whole = decode_rgb(data)
    monkeypatch.setattr("fastlt.data.image.STRIP_PIXELS", 3 * WIDTH + 1)
    assert (decode_rgb(data) == whole).all()
    assert decode_rgb(data).flags.writeable


def test_only_regular_files_are_opened(tmp_path):
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for read in (probe, decode_rgb):
        with pytest.raises(ValueError, match=r"pipe\.jpg: got a pipe"):
            read(pipe)
        with pytest.raises(ValueError, match="/dev/zero: got a device"):
            read(Path("/dev/zero"))
