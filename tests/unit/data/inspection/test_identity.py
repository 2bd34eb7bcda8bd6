"""Data are known again by their content, wherever they lie."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastlt.data import open_splits, pack
from fastlt.data.inspection.identity import Comparison, compare_data, describe_data, is_same

SAME = Comparison(faults={}, unsure=(), renamed=())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    for split, number in (("train", 3), ("val", 1)):
        for name, suffix in (("ant", "png"), ("bee", "jpg"), ("cat", "bmp")):
            for at in range(number):
                file = tmp_path / "set" / split / name / f"{at}.{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draws.integers(0, 256, (96, 96, 3), np.uint8)).save(file)
    return tmp_path / "set"


def copied(root: Path, name: str) -> Path:
    """Return a copy with other modification times."""
    copy = Path(shutil.copytree(root, root.parent / name, copy_function=shutil.copyfile))
    for file in copy.rglob("*.*"):
        os.utime(file, (1, 1))
    return copy


def compared(root: Path, other: Path, **kwargs: Any) -> Comparison:
    return compare_data(describe_data(open_splits(root)), open_splits(other, **kwargs))


def test_a_copy_a_move_and_a_touch_are_the_same_data(root: Path) -> None:
    record = describe_data(open_splits(root))
    copy = copied(root, "copy")
    assert record["splits"]["train"]["fingerprint"] != open_splits(copy)["train"].fingerprint
    assert compare_data(record, open_splits(copy)) == SAME
    assert compare_data(record, open_splits(copy, cache=False)) == SAME
    assert is_same(record, describe_data(open_splits(copy)))
    root.rename(root.with_name("elsewhere"))
    for file in root.with_name("elsewhere").rglob("*.*"):
        file.touch()
    assert compare_data(record, open_splits(root.with_name("elsewhere"))) == SAME


def test_the_same_images_by_lists_of_absolute_paths_are_the_same_data(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for split in ("train", "val"):
        files = sorted((root / split).glob("*/*"))
        lines = (f"{file} {('ant', 'bee', 'cat').index(file.parent.name)}\n" for file in files)
        (tmp_path / "lists" / f"{split}.txt").write_text("".join(lines))
    assert compared(root, root, lists=tmp_path / "lists") == SAME


@pytest.mark.parametrize("name", ["ant/1.png", "bee/1.jpg", "cat/1.bmp"])
def test_other_pixels_in_a_file_of_the_same_size_are_other_data(root: Path, name: str) -> None:
    copy = copied(root, "copy")
    file = copy / "train" / name
    size = file.stat().st_size
    pixels = np.array(Image.open(file))
    pixels[48, 48] ^= 255  # in the middle of the file
    if name.endswith("bmp"):
        Image.fromarray(pixels).save(file)
    else:
        kind = {"png": {}, "jpg": {"quality": 74}}[file.suffix[1:]]
        Image.fromarray(pixels).save(file, **kind)
        content = file.read_bytes()
        assert len(content) <= size
        # What stands behind the end of an image is ignored, so this is a whole image of the same size
        file.write_bytes(content + bytes(size - len(content)))
    assert file.stat().st_size == size
    assert compared(root, copy).faults == {"train": "as many images, of which some have other bytes or labels"}


def test_what_differs_is_said(root: Path) -> None:
    copy = copied(root, "fewer")
    (copy / "train" / "ant" / "0.png").unlink()
    assert compared(root, copy).faults == {"train": "8 images instead of 9"}
    copy = copied(root, "swapped")
    (copy / "train" / "ant" / "0.png").rename(copy / "train" / "bee" / "9.png")
    assert compared(root, copy).faults == {"train": "other numbers of images in its classes"}
    record = describe_data(open_splits(root))
    assert compare_data(record, {"train": open_splits(root)["train"]}).faults == {"val": "there is no val split"}


def test_classes_of_another_name_are_told(root: Path) -> None:
    copy = copied(root, "copy")
    for split in ("train", "val"):
        (copy / split / "bee").rename(copy / split / "bumblebee")
    found = compared(root, copy)
    assert (found.faults, found.renamed) == ({}, (("bee", "bumblebee"),))


def test_an_earlier_record_knows_only_what_has_not_been_touched(root: Path) -> None:
    record = describe_data(open_splits(root))
    for split in record["splits"].values():
        del split["content"]
    assert compare_data(record, open_splits(root)) == SAME
    assert compare_data(record, open_splits(copied(root, "copy"))).unsure == ("train", "val")
    (root / "val" / "ant" / "0.png").unlink()
    assert compare_data(record, open_splits(root)).faults == {"val": "2 images instead of 3"}


def test_a_pack_of_a_copy_is_the_same_data_and_goes_on_with_it(root: Path, tmp_path: Path) -> None:
    record = describe_data(open_splits(root))
    copy = copied(root, "copy")
    pack(open_splits(copy), tmp_path / "packed")
    assert compare_data(record, open_splits(tmp_path / "packed")) == SAME
    assert pack(open_splits(root), tmp_path / "packed").num_kept == 12
    pack(open_splits(root), tmp_path / "small", short_side=32)
    pack(open_splits(copy), tmp_path / "small too", short_side=32)
    assert compared(tmp_path / "small", tmp_path / "small too") == SAME
    assert "train" in compared(root, tmp_path / "small").faults
