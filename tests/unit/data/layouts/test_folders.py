"""Links between folders change no image's label."""

import re
from pathlib import Path

import pytest
from PIL import Image

from fastlt.data import LongTailedDataset, open_splits
from fastlt.data.layouts.split import split_folder
from fastlt.data.unlabelled import unlabelled_images


@pytest.fixture
def train(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "train"
    for name in ("ant/1.png", "ant/more/2.png", "bee/1.png", "bee/2.png", "../val/ant/3.png", "../val/bee/3.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name)
    return folder


def read(folder: Path) -> LongTailedDataset:
    return LongTailedDataset.from_folder(folder, cache=False)


@pytest.mark.parametrize("target", [".", "more", "../ant", "../../train/ant/more"])
def test_a_link_within_a_class_adds_no_image(train: Path, target: str) -> None:
    expected = read(train)
    (train / "ant" / "other").symlink_to(target)
    assert (read(train).paths, read(train).labels.tolist()) == (expected.paths, expected.labels.tolist())


@pytest.mark.parametrize(
    ("link", "target", "met", "other"),
    [
        ("ant/loop", "..", "ant/loop", ""),
        ("ant/loop", "../..", "ant/loop/train", ""),
        ("ant/more/loop", "../../bee", "ant/more/loop", "bee"),
        ("cat", "ant", "cat", "ant"),
        ("self", ".", "self", ""),
        ("bee/shared", "../ant/more", "bee/shared", "ant/more"),
    ],
)
@pytest.mark.parametrize("command", ["read", "split"])
def test_no_folder_is_a_part_of_two_classes(
    train: Path, command: str, link: str, target: str, met: str, other: str
) -> None:
    (train / link).symlink_to(target)
    message = f"^{re.escape(str(train / met))}: got the same folder as {re.escape(str(train / other))};"
    with pytest.raises(ValueError, match=message):
        read(train) if command == "read" else split_folder(train)


def test_two_classes_that_link_to_one_folder_outside_are_refused(train: Path) -> None:
    (train.parent / "store").mkdir()
    Image.new("L", (4, 4)).save(train.parent / "store" / "1.png")
    for name in ("cat", "dog"):
        (train / name).symlink_to("../store")
    with pytest.raises(ValueError, match=f"^{train}/dog: got the same folder as {train}/cat;"):
        read(train)


@pytest.mark.parametrize(("target", "other"), [("../../val", "val"), ("../../val/bee", "val/bee")])
def test_a_class_contains_no_other_split(train: Path, target: str, other: str) -> None:
    (train / "ant" / "loop").symlink_to(target)
    with pytest.raises(ValueError, match=f"^{train}/ant/loop: got the same folder as {train.parent / other};"):
        open_splits(train.parent, cache=False)


def test_classes_and_splits_may_be_links_themselves(train: Path) -> None:
    (train / "bee").rename(train.parent / "elsewhere")
    (train / "bee").symlink_to("../elsewhere")
    (train.parent / "test").symlink_to("val")
    splits = open_splits(train.parent, cache=False)
    assert splits["train"].class_counts.tolist() == [2, 2]
    assert splits["test"].paths == splits["val"].paths


def test_unlabelled_images_behind_links_count_once(train: Path) -> None:
    (train / "ant" / "loop").symlink_to("../..")
    (train / "zoo").symlink_to("bee")
    found = unlabelled_images([train], ("ant", "bee"), flag="IMAGES")
    assert len(found) == 6  # with those of val, behind the link
    assert len({path.rpartition("/train/")[2] for path in found.paths}) == 6


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("one", "other"), [(NFC, NFD), (NFD, NFC)])
def test_a_class_has_one_name_in_both_forms_of_unicode(tmp_path: Path, one: str, other: str) -> None:
    for name in (f"train/{one}/1.png", "train/ant/1.png", f"val/{other}/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    splits = open_splits(tmp_path, cache=False)
    assert splits["val"].class_names == splits["train"].class_names == ("ant", one)
    assert (splits["val"].labels.tolist(), splits["val"].paths) == ([1], (f"{other}/1.png",))
    (tmp_path / "classes.txt").write_text(f"{other}\nant\n", encoding="utf-8")
    assert open_splits(tmp_path, cache=False)["val"].labels.tolist() == [0]
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text(f"{split}/{one}/1.png 0\ntrain/ant/1.png 1\n", encoding="utf-8")
    listed = open_splits(tmp_path, cache=False)
    assert listed["val"].paths == (f"val/{other}/1.png", "train/ant/1.png")
    assert listed["val"].path(0).is_file()


def test_a_class_in_both_forms_at_once_is_refused(train: Path) -> None:
    for name in (NFC, NFD):
        (train / name).mkdir()
    with pytest.raises(ValueError, match=f"^{train}: got 1 names twice"):
        read(train)


def test_a_class_whose_val_images_are_all_broken_is_named(train: Path, caplog: pytest.LogCaptureFixture) -> None:
    (train.parent / "val" / "bee" / "3.png").write_bytes(b"no image")
    assert open_splits(train.parent, cache=False)["val"].class_counts.tolist() == [1, 0]
    assert any("no val image is left of 1 classes, bee" in message for message in caplog.messages)
