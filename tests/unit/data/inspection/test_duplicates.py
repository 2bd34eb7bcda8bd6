"""Images that are there twice: within a split, across splits, in files and in packs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastlt.cli import dispatch
from fastlt.data import open_splits, pack
from fastlt.data.inspection.duplicates import Duplicates, find_duplicates


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six train and four val images, no two alike; all of one size in bytes, and longer than the heads compared."""
    root = tmp_path / "data"
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for label in ("a", "b"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (60, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.bmp")
    return root


def paths(duplicates: Duplicates) -> list[list[str]]:
    return [[f"{split}/{path}" for split, path, _ in group] for group in duplicates.groups]


def test_images_of_one_size_are_no_duplicates(root: Path) -> None:
    duplicates = find_duplicates(open_splits(root))
    assert (duplicates.groups, duplicates.num_unread, duplicates.num_read) == ((), 0, 0)  # their heads differ already


@pytest.mark.parametrize("packed", [False, True])
def test_copies_are_found_within_and_across_splits(root: Path, packed: bool, tmp_path: Path) -> None:
    shutil.copy(root / "train" / "a" / "0.bmp", root / "train" / "a" / "9.bmp")
    shutil.copy(root / "train" / "b" / "1.bmp", root / "val" / "a" / "9.bmp")
    almost = bytearray((root / "train" / "b" / "2.bmp").read_bytes())
    almost[-1] ^= 1
    (root / "train" / "b" / "8.bmp").write_bytes(almost)
    splits = open_splits(root)
    if packed:
        pack(splits, tmp_path / "pack")
        splits = open_splits(tmp_path / "pack")
    duplicates = find_duplicates(splits, num_threads=1)
    assert paths(duplicates) == [["train/a/0.bmp", "train/a/9.bmp"], ["train/b/1.bmp", "val/a/9.bmp"]]
    assert duplicates.counts() == {"train": 1, "train, val": 1}
    assert duplicates.num_contradictions == 1
    assert duplicates.num_read == 6


def test_a_file_that_is_listed_twice_is_a_duplicate_and_read_once(root: Path) -> None:
    (root / "train.txt").write_text("train/a/0.bmp 0\ntrain/b/0.bmp 1\ntrain/a/0.bmp 0\n")
    (root / "val.txt").write_text("train/a/0.bmp 0\nval/b/0.bmp 1\n")
    duplicates = find_duplicates(open_splits(root))
    assert paths(duplicates) == [["train/train/a/0.bmp", "train/train/a/0.bmp", "val/train/a/0.bmp"]]
    assert duplicates.num_read == 0


def test_the_limit_holds_and_what_it_left_out_is_counted(root: Path) -> None:
    for number in range(3):
        shutil.copy(root / "train" / "a" / f"{number}.bmp", root / "val" / "b" / f"copy{number}.bmp")
    size = (root / "train" / "a" / "0.bmp").stat().st_size
    duplicates = find_duplicates(open_splits(root), max_bytes=4 * size)
    assert (len(duplicates.groups), duplicates.num_read, duplicates.num_unread) == (2, 4, 2)
    duplicates = find_duplicates(open_splits(root), max_bytes=3 * size)
    assert (len(duplicates.groups), duplicates.num_read, duplicates.num_unread) == (1, 2, 4)


def test_the_command_tells(root: Path, tmp_path: Path, capsys: Any) -> None:
    dispatch(["data", "info", str(root), "--duplicates"])
    assert "duplicates: none" in capsys.readouterr().out
    shutil.copy(root / "train" / "a" / "0.bmp", root / "val" / "b" / "9.bmp")
    dispatch(["data", "info", str(root), "--duplicates", "--json", str(tmp_path / "facts.json")])
    out = capsys.readouterr().out
    assert "duplicates across train, val: 1" in out
    assert "1 of them have different labels" in out
    assert "a/0.bmp (train, class 0), b/9.bmp (val, class 1)" in out
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["duplicates"]["counts"] == {"train, val": 1}
