"""Archives that are made to take memory, time or control; each is refused in one line, soon and cheaply."""

import gzip
import io
import os
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fastlt.data.published.cifar import CIFAR
from fastlt.data.published.cifar_archive import read_cifar
from fastlt.data.published.plain_pickle import load_plain

SPEC = CIFAR["cifar10_lt"]
FOLDER = "cifar-10-batches-py"
MEGABYTE = 1 << 20


def write_folder(root: Path) -> Path:
    """Write ten train images and ten test images."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    for number, name in enumerate((*SPEC.train, *SPEC.test)):
        count = 10 if name == "test_batch" else 2
        batch = {
            b"data": np.full((count, 3072), number, np.uint8),
            b"labels": [(2 * number + at) % 10 for at in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {b"label_names": [b"thing%d" % label for label in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    return folder


def refused(root: Path) -> str:
    """Return the one line in which an archive is refused; little memory may be taken for it."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"^{root}\S*: got [^\n]*public archive; download it again$") as caught:
            read_cifar(SPEC, root, "train")
        assert tracemalloc.get_traced_memory()[1] < 64 * MEGABYTE
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r\xff\xff\xff\xff.",  # a key that Python's own reader makes an array of 34 GB for
        b"\x80\x02T\xff\xff\xff\x7f",
        b"\x80\x02T\xff\xff\xff\xff.",
        b"\x80\x05\x96\x00\x00\x00\x00\x02\x00\x00\x00.",
        b"\x80\x05\x8e\x00\x00\x00\x00\x02\x00\x00\x00.",
        b"\x80\x04\x95\x00\x00\x00\x00\x02\x00\x00\x00.",
        b"\x80\x02\x8b\xff\xff\xff\x7f",
        b"",
        b".",
        b"(",
        b"\x80\x02(]t.",
        b"\x80\x02}(]]u.",
        b"\x80\x02cnumpy\n",
        b"\x80\x02cbuiltins\neval\n.",
        b"\x80\x02}(U\x04dataK\x01U\x06labels]K\x01au.",
        b"[" * 1000,
        b"](" * 1000 + b"l" * 1000,
        bytes(range(256)),
    ],
)
def test_a_pickle_that_asks_for_much_is_refused(content: bytes, tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "data_batch_2").write_bytes(content)
    refused(tmp_path)


def test_a_small_pickle_cannot_grow_inside(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    # A list of a thousand, a thousand times, a thousand times, and so on
    nested = b"U\x02l0]q\x00" + b"K\x01a" * 1000
    for level in range(1, 4):
        key = b"labels" if level == 3 else b"l%d" % level
        nested += b"U" + bytes([len(key)]) + key + b"]q" + bytes([level]) + (b"h" + bytes([level - 1]) + b"a") * 1000
    array = pickle.dumps(np.zeros((1000, 3072), np.uint8), protocol=2)[2:-1]
    (folder / "data_batch_2").write_bytes(b"\x80\x02}(U\x04data" + array + nested + b"u.")
    assert "labels" in refused(tmp_path)


def test_text_is_encoded_no_more_often_than_it_is_there() -> None:
    text = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"q\x00X\x06\x00\x00\x00latin1q\x01"
    call = b"c_codecs\nencode\nh\x00h\x01\x86R"
    assert load_plain(b"\x80\x02" + text + call + b".") == b"a" * 10**6
    with pytest.raises(ValueError, match="encodes"):
        load_plain(b"\x80\x02" + text + call * 1000 + b".")


def test_a_key_cannot_take_forever_to_hash() -> None:
    twice = b"".join(b"h" + bytes([at]) + b"\x86q" + bytes([at + 1]) for at in range(60))
    with pytest.raises(ValueError, match="BINGET"):
        load_plain(b"\x80\x02}K\x01q\x00" + twice + b"K\x01s.")


def test_too_many_codes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.data.published.plain_pickle.MAX_STEPS", 1000)
    with pytest.raises(ValueError, match="1000 steps"):
        load_plain(b"]" * 1001 + b".")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_every_protocol_of_the_time_are_read(protocol: int) -> None:
    random = np.random.default_rng(0)
    batch = {
        b"data": random.integers(0, 256, (3, 3072), dtype=np.uint8),
        b"labels": [1, 300, 70000, -1],
        b"names": [b"a", b"\xff"],
        b"other": (None, True, False, "text", ("x",), ()),
    }
    read = load_plain(pickle.dumps(batch, protocol=protocol))
    np.testing.assert_array_equal(read.pop(b"data").array(), batch.pop(b"data"))
    assert read == batch


@pytest.mark.parametrize("label", [10, -1, 2**31 - 1, 2**70])
def test_labels_out_of_range_are_refused(label: int, tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, label]}
    (folder / "data_batch_2").write_bytes(pickle.dumps(batch, protocol=2))
    refused(tmp_path)


def test_files_longer_than_the_public_ones_are_not_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    for name in ("data_batch_2", "batches.meta"):
        kept = (folder / name).read_bytes()
        os.truncate(folder / name, 1 << 40)
        refused(tmp_path)
        (folder / name).write_bytes(kept)
    read_cifar(SPEC, tmp_path, "train")


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "data_batch_2").unlink()
    os.mkfifo(folder / "data_batch_2")
    assert "a pipe" in refused(tmp_path)


def add(archive: tarfile.TarFile, name: str, size: int) -> None:
    class Zeros(io.RawIOBase):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            buffer[:] = bytes(len(buffer))
            return len(buffer)

    info = tarfile.TarInfo(f"{FOLDER}/{name}")
    info.size = size
    archive.addfile(info, Zeros())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "said"), [("readme.html", "proportion"), ("data_batch_1", "data_batch_1"), ("batches.meta", "meta")]
)
def test_an_archive_that_inflates_is_refused(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlt.data.published.cifar_archive._IMAGE_BYTES", 64)  # as if the public one were smaller
    monkeypatch.setattr("fastlt.data.published.cifar_archive._OTHER_FILES_BYTES", 0)
    with (
        gzip.open(tmp_path / "cifar-10-python.tar.gz", "wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,  # type: ignore[call-overload]
    ):
        add(archive, name, 24 * MEGABYTE)
    assert said in refused(tmp_path)


def test_a_header_that_announces_much_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.size, info.type = 1 << 33, tarfile.GNUTYPE_LONGNAME
    with gzip.open(tmp_path / "cifar-10-python.tar.gz", "wb") as packed:
        packed.write(info.tobuf() + bytes(1000))
    refused(tmp_path)


def test_a_changed_bit_of_an_archive_is_noticed(tmp_path: Path) -> None:
    write_folder(tmp_path / "raw")
    file = tmp_path / "data" / "cifar-10-python.tar.gz"
    file.parent.mkdir()
    with tarfile.open(file, "w:gz", compresslevel=0) as archive:  # stored, so that only the checksum can tell
        archive.add(tmp_path / "raw" / FOLDER, FOLDER)
    assert read_cifar(SPEC, tmp_path / "data", "train")[0].shape == (10, 32, 32, 3)
    content = bytearray(file.read_bytes())
    at = content.index(bytes([1]) * 3072)
    content[at + 7] ^= 1
    file.write_bytes(content)
    refused(tmp_path / "data")
