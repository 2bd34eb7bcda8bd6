"""A tar of images that is written while something may end the process."""

import errno
from pathlib import Path

import pytest

from fastlt.data import tar
from fastlt.data.packs.write import member_names, pack
from fastlt.data.tar import Item, TarImages, TarWriter, damage, journal_length

NAMES = tuple("01234")


def item(number: int) -> Item:
    return Item(bytes([number]) * (500 + number), 10 + number, 20, number % 2 == 0)


def test_nothing_that_was_committed_is_lost_and_no_more_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("fastlt.data.tar.time.monotonic", lambda: now)
    file = tmp_path / "train.tar"
    killed = TarWriter(file, NAMES)
    killed.append(item(0))
    assert journal_length(file) == 0
    now = 2.0
    killed.append(item(1))
    assert journal_length(file) == 2  # by the clock
    killed.append(item(2))
    assert journal_length(file) == 2
    monkeypatch.setattr(tar, "_COMMIT_BYTES", 2 * (512 + 512))
    killed.append(item(3))
    assert journal_length(file) == 4  # by the bytes
    killed.append(item(4))
    killed._stream.flush()
    goes_on = TarWriter(file, NAMES)
    assert len(goes_on) == 4
    goes_on.append(item(4))
    records = goes_on.finish()
    goes_on.place()
    assert journal_length(file) == 0
    assert file.stat().st_size % 10240 == 0
    assert [damage(file, record, name) for record, name in zip(records, NAMES, strict=True)] == [None] * 5
    assert records["width"].tolist() == [10, 11, 12, 13, 14]
    assert records["native"].tolist() == [True, False, True, False, True]
    images = TarImages(file=file, offsets=records["offset"], lengths=records["length"], crc=records["crc"])
    assert [images.read(number) for number in range(5)] == [item(number).content for number in range(5)]


@pytest.mark.parametrize(
    ("at", "what"), [(0, "its bytes have changed"), (-512, "its header is damaged (bad checksum)")]
)
def test_a_bit_that_changes_is_damage(at: int, what: str, tmp_path: Path) -> None:
    writer = TarWriter(tmp_path / "train.tar", NAMES)
    writer.append(item(7))
    record = writer.finish()[0]
    writer.place()
    content = bytearray((tmp_path / "train.tar").read_bytes())
    content[int(record["offset"]) + at] ^= 1
    (tmp_path / "train.tar").write_bytes(content)
    assert damage(tmp_path / "train.tar", record, "0") == what
    longer = record.copy()
    longer["length"] += 1
    (tmp_path / "train.tar").write_bytes(content)
    assert damage(tmp_path / "train.tar", longer, "0") is not None


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.rename"])
def test_an_error_names_the_tar_and_no_temporary_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def write() -> None:
        writer = TarWriter(tmp_path / "train.tar", NAMES)
        writer.append(item(0))
        writer.finish()
        writer.place()

    if call == "os.rename":
        (tmp_path / ".train.tar.partial").mkdir()
    else:
        monkeypatch.setattr(call, fail)
    with pytest.raises(OSError, match=r"train\.tar") as caught:
        write()
    assert str(caught.value.filename) == str(tmp_path / "train.tar")


def test_sizes_and_qualities_out_of_range_are_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"short_side": 7}, r"^--short-side: got 7\b"),
        ({"quality": 0}, r"^--quality: got 0\b"),
        ({"quality": 101}, r"^--quality: got 101\b"),
    ):
        with pytest.raises(ValueError, match=message):
            pack({}, tmp_path, **options)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="train"):
        pack({}, tmp_path, short_side=8, quality=100)


@pytest.mark.parametrize(
    ("reencoded", "names"),
    [
        (False, ["a/b.png", "_/c.JPG", "a/b~1.png", "d.jpeg", "e"]),
        (True, ["a/b.png.jpg", "_/c.JPG", "a/b.png~1.jpg", "d.jpeg", "e.jpg"]),
    ],
)
def test_names_in_a_tar_are_safe_and_end_as_their_content(reencoded: bool, names: list[str]) -> None:
    class Paths:
        paths = ("a/b.png", "../c.JPG", "./a//b.png", "d.jpeg", "e")

    assert member_names(Paths(), reencoded=reencoded) == names  # type: ignore[arg-type]
