"""Greyscale of more than 8 bits comes out between black and white, by what the file declares or holds."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from fastlt.data import LongTailedDataset, decode_rgb
from fastlt.data.decoding import grey
from fastlt.data.loaders.loader import eval_loader
from fastlt.data.transforms.augmentation import EvalTransform


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grey, "_told", set())


def ramp(most: int, dtype: type = np.uint16) -> np.ndarray:
    return np.linspace(0, most, 16 * 16).round().astype(dtype).reshape(16, 16)


def encode(samples: np.ndarray, kind: str, tags: dict[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples).save(file, kind, **({"tiffinfo": tags} if tags else {}))
    return file.getvalue()


def with_significant_bits(png: bytes, bits: int) -> bytes:
    chunk = b"sBIT" + bytes([bits])
    return png[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def pgm(samples: np.ndarray, maximum: int) -> bytes:
    return b"P5\n# a comment\n16 16\n%d\n" % maximum + samples.astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("most", "bits"), [(255, 8), (900, 10), (1023, 10), (4095, 12), (5000, 14), (16384, 16), (65535, 16)]
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "int32"])
def test_the_largest_sample_tells_the_depth_where_nothing_else_does(
    most: int, bits: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    samples = ramp(most)
    data = encode(samples.astype(np.int32), "TIFF") if kind == "int32" else encode(samples, kind)
    assert (decode_rgb(data) == (samples >> (bits - 8))[:, :, None]).all()
    assert (decode_rgb(data).max() > 127) == (most >= 1 << (bits - 1))
    (message,) = caplog.messages
    assert f"of {bits} bits" in message


DECLARED = {
    "png-12": (lambda: with_significant_bits(encode(ramp(900), "PNG"), 12), 900 >> 4),
    "png-12-upper": (lambda: with_significant_bits(encode(ramp(5000), "PNG"), 12), 5000 >> 8),
    "png-16": (lambda: with_significant_bits(encode(ramp(900), "PNG"), 16), 900 >> 8),
    "tiff-12": (lambda: encode(ramp(900), "TIFF", {281: 4095}), 900 >> 4),
    "tiff-16": (lambda: encode(ramp(900), "TIFF", {281: 65535}), 900 >> 8),
    "pgm-12": (lambda: pgm(ramp(900), 4095), 900 >> 4),
}


@pytest.mark.parametrize("kind", DECLARED)
def test_a_declared_depth_is_believed_and_needs_no_warning(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    make, highest = DECLARED[kind]
    assert decode_rgb(make()).max() == highest
    assert caplog.messages == []


def test_a_pgm_of_the_usual_maximum_declares_nothing() -> None:
    assert decode_rgb(pgm(ramp(4095), 65535)).max() == 255


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_jpeg_2000() -> None:
    assert abs(int(decode_rgb(encode(ramp(4095), "JPEG2000")).max()) - 255) <= 1


def test_a_depth_is_said_once_and_another_one_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, most in (("a", 4095), ("b", 3000), ("c", 60000), ("d", 50000)):
        (tmp_path / f"{name}.png").write_bytes(encode(ramp(most), "PNG"))
        decode_rgb(tmp_path / f"{name}.png")
    first, second = caplog.messages
    assert first.startswith(f"{tmp_path}/a.png: ")
    assert second.startswith(f"{tmp_path}/c.png: ")
    assert "another depth" in second
    assert "another depth" not in first


@pytest.mark.parametrize(
    ("most", "declared", "expected"),
    [(1, None, 255), (0.4, None, 102), (200, None, 200), (4000, None, 250), (4, 10, 102)],
)
def test_floating_point(most: float, declared: float | None, expected: int) -> None:
    samples = np.linspace(0, most, 64, dtype=np.float32).reshape(8, 8)
    assert decode_rgb(encode(samples, "TIFF", {341: declared} if declared else None)).max() == expected


@pytest.mark.parametrize(
    "samples",
    [ramp(100).astype(np.int32) - 50, ramp(70_000, np.int32), np.full((4, 4), np.nan, np.float32)],
    ids=["negative", "too deep", "nan"],
)
def test_samples_without_a_range_are_refused_with_a_reason(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"samples (from -?\d+ to \d+, expected 8 to 16 bits|that are not finite)"):
        decode_rgb(encode(samples, "TIFF"))


@pytest.mark.parametrize("backend", ["memory", "pillow"])
def test_every_loader_sees_the_same(tmp_path: Path, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "set" / "grey"
    folder.mkdir(parents=True)
    (folder / "12.png").write_bytes(encode(np.full((40, 40), 4000, np.uint16), "PNG"))
    (folder / "32.tif").write_bytes(encode(np.full((40, 40), 250, np.int32), "TIFF"))
    dataset = LongTailedDataset.from_folder(folder.parent, cache=False)
    assert sum("greyscale" in message for message in caplog.messages) == 2
    with eval_loader(
        dataset, EvalTransform(size=32, resize=36), batch_size=2, backend=backend, num_threads=1
    ) as loader:
        (batch,) = list(loader)
    assert (batch.images == 250).all()
    assert sum("greyscale" in message for message in caplog.messages) == 2


def colour_png(most: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + np.linspace(0, most, 12).astype(">u2").tobytes()
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(4 * row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("most", "dark"), [(4095, True), (60000, False), (0, False)])
def test_deep_colour_that_comes_out_nearly_black_is_said(
    most: int, dark: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert decode_rgb(colour_png(most)).max() == most >> 8
    assert [("nearly black" in message) for message in caplog.messages] == [True] * dark
