"""One walk through folders: nothing vanishes without a word."""

import importlib.machinery
import io
import logging
import os
import sys
import types
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from fastlt.commands import data_info, data_split
from fastlt.data import LongTailedDataset, decode_rgb, open_splits, split_folder
from fastlt.data.layouts.walk import look, subfolders, walk
from fastlt.data.unlabelled import unlabelled_images
from fastlt.files import read_json


def picture(kind: str = "PNG", shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), shade).save(file, kind)
    return file.getvalue()


def write(folder: Path, names: list[str], content: bytes | None = None) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture() if content is None else content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    places = [(split, name) for split in ("train", "val") for name in ("ant/1.png", "ant/2.png", "bee/1.png")]
    for shade, (split, name) in enumerate(places):
        write(tmp_path / "data" / split, [name], picture(shade=shade))
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["3", "3.dat", "3.jpg_large", "IMG_1.PNG~"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_an_image_is_one_whatever_its_name(root: Path, name: str, kind: str) -> None:
    write(root / "train", [f"ant/{name}"], picture(kind))
    train = LongTailedDataset.from_folder(root / "train", strict=True, cache=False)
    assert f"ant/{name}" in train.paths
    assert (train.class_counts.tolist(), train.left_out) == ([3, 1], ())
    assert len(unlabelled_images([root / "train"], ("ant",), flag="IMAGES")) == 4


OTHERS = {
    "ant/notes": (b"Plain words", "no suffix"),
    "ant/BMW": (b"BMW and P1 are no images", "no suffix"),
    "ant/1.json": (b"{}", "suffix .json"),
    "ant/film.mp4": (b"\0\0\0\x18ftypisom" + bytes(20), "suffix .mp4"),
    "ant/.1.png": (picture(), "hidden"),
    "ant/._1.png": (b"\0\5\x16\7", "of the system"),
    "ant/Thumbs.db": (b"x", "of the system"),
    "ant/@eaDir/1.png": (picture(), "of the system"),
    "@eaDir/x/1.png": (picture(), "of the system"),
    "__MACOSX/1.png": (picture(), "of the system"),
    "lost+found/1.png": (picture(), "of the system"),
    ".cache/1.png": (picture(), "hidden"),
    "ant/.1.png.123.partial": (b"x", "left by fastlt"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_image_is_left_out_counted_and_named(
    root: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, reason = OTHERS[name]
    write(root / "train", [name], content)
    with caplog.at_level(logging.INFO, "fastlt"):
        train = open_splits(root, strict=True, cache=False)["train"]
    assert train.class_counts.tolist() == [2, 1]
    (left,) = train.left_out
    assert left.reason == reason
    assert name.startswith(left.path)
    assert f"{root}/train: 1 files or folders are left out: 1 {reason} ({left.path})" in caplog.messages


PICTURES = {
    "ant/photo.NEF": b"II*\0" + bytes(40),
    "ant/drawing.psd": b"8BPS" + bytes(40),
    "loose.png": picture(),
    "ant/gone": None,
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_left_out_is_a_warning_and_an_error_where_one_is_strict(
    root: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = PICTURES[name]
    if content is None:
        (root / "train" / name).symlink_to("nowhere")
    else:
        write(root / "train", [name], content)
    assert len(open_splits(root, cache=False)["train"]) == 3
    assert [record.levelname for record in caplog.records if name in record.message] == ["WARNING"]
    for action in (
        lambda: open_splits(root, strict=True, cache=False),
        lambda: split_folder(root / "train", tmp_path / "lists", strict=True),
    ):
        with pytest.raises(ValueError, match=rf"/train: got 1 pictures .*{name}.*--strict"):
            action()
    found = unlabelled_images([root / "train"], ("ant",), flag="IMAGES")
    expected = [] if name == "loose.png" else [str(root / "train" / name)]
    assert [each.path for each in found.left_out] == expected


def test_heic_is_named_with_what_it_needs_and_read_once_that_is_there(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fastlt.data.decoding import formats

    known = tuple(name for name in formats.formats() if name != "HEIF")
    monkeypatch.setattr("fastlt.data.image.formats", lambda: known)
    monkeypatch.setattr(formats, "formats", lambda: known)
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    write(root / "train", ["ant/3.heic", "ant/4.HEIC", "ant/5"], heic)
    train = open_splits(root)["train"]
    assert [file.path for file in train.skipped] == ["ant/3.heic", "ant/4.HEIC", "ant/5"]
    assert all("pillow-heif" in file.reason and "fastlt[heic]" in file.reason for file in train.skipped)
    with pytest.raises(ValueError, match=r"3 of 6 train files.*pillow-heif"):
        open_splits(root, strict=True)
    write(root / "train", ["ant/3.heic", "ant/4.HEIC", "ant/5"], picture("JPEG").ljust(len(heic), b"\0"))
    for name in ("3.heic", "4.HEIC", "5"):  # the same size and time: only what was missing is there now
        os.utime(root / "train" / "ant" / name, ns=(7, 7))
    assert len(open_splits(root)["train"]) == 6


def test_pillow_heif_is_registered_where_it_is_installed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastlt.data.decoding import formats

    class Fake(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode, self.tile = (4, 4), "L", []

        def load(self) -> None:
            self.im = Image.core.fill("L", (4, 4), 200)

    module = types.ModuleType("pillow_heif")
    module.__spec__ = importlib.machinery.ModuleSpec("pillow_heif", None)
    module.register_heif_opener = lambda: Image.register_open("HEIF", Fake, lambda head: head[4:8] == b"ftyp")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    for table in (Image.OPEN, Image.ID):
        if "HEIF" in table:
            pytest.skip("the real one is registered already")
    write(root / "train", ["ant/3.heic"], b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    formats.formats.cache_clear()
    try:
        train = LongTailedDataset.from_folder(root / "train", strict=True, cache=False)
        assert (decode_rgb(train.path(2)) == 200).all()
    finally:
        del Image.OPEN["HEIF"]
        Image.ID.remove("HEIF")
        formats.formats.cache_clear()
    assert train.paths[2] == "ant/3.heic"


def test_real_heic_is_read(root: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    write(root / "train", ["ant/3.heic", "ant/4"], picture("HEIF"))
    assert LongTailedDataset.from_folder(root / "train", strict=True, cache=False).class_counts.tolist() == [4, 1]


@pytest.mark.parametrize("target", [".", "..", "../bee", "../../train"])
def test_a_folder_counts_once_however_many_links_lead_to_it(root: Path, target: str) -> None:
    (root / "train" / "ant" / "again").symlink_to(target)
    found = walk(root / "train")
    assert len(found.images) == 3
    assert [left.reason for left in found.left_out] == ["listed under another name"]


def test_the_same_folder_named_twice_counts_once(root: Path) -> None:
    found = unlabelled_images([root / "train", root / "train" / "ant"], ("ant",), flag="IMAGES")
    assert len(found) == 3
    assert [left.reason for left in found.left_out] == ["listed under another name"]


@pytest.mark.parametrize("place", ["train/ant", "train/ant/inner"])
def test_a_folder_that_cannot_be_listed_is_an_error(
    root: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "train", ["ant/inner/3.png"])
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == root / place:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for action in (
        lambda: open_splits(root, cache=False),
        lambda: split_folder(root / "train", tmp_path / "lists"),
        lambda: unlabelled_images([root], ("ant",), flag="IMAGES"),
    ):
        with pytest.raises(PermissionError) as caught:
            action()
        assert caught.value.filename == str(root / place)


def test_system_folders_are_no_classes(root: Path) -> None:
    write(root / "train", ["__MACOSX/x.png", "lost+found/x.png", "@eaDir/x.png"])
    assert subfolders(root / "train") == look(root / "train").folders == ["ant", "bee"]


def test_commands_write_what_is_left_out(root: Path, tmp_path: Path) -> None:
    write(root / "train", ["ant/x.psd"], b"8BPS")
    write(root / "train", [f"{name}/more {number}.png" for name in ("ant", "bee") for number in range(4)])
    report = tmp_path / "report.json"
    data_info.run([str(root), "--json", str(report)])
    assert read_json(report)["splits"]["train"]["left_out"] == {".psd, a format that is not read": ["ant/x.psd"]}
    arguments = [str(root / "train"), "--out", str(tmp_path / "lists"), "--json", str(report)]
    data_split.run(arguments)
    assert read_json(report)["left_out"] == {".psd, a format that is not read": ["ant/x.psd"]}
    with pytest.raises(ValueError, match=r"x\.psd"):
        data_split.run([*arguments, "--strict"])
