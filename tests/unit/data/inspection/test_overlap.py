"""Images in two splits, listed twice or under two labels are counted, named, and an error under --strict."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.commands import data_info, data_verify
from fastlt.data import LongTailedDataset, open_splits, pack
from fastlt.data.inspection.identity import describe_data, warn_of_overlap
from fastlt.data.inspection.overlap import find_overlap


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


def draw(file: Path, shade: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (shade, 2 * shade, 7)).save(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three train and two val images, all different."""
    for number in range(10):
        split, at = ("train", number) if number < 6 else ("val", number - 6)
        draw(tmp_path / "data" / split / ("ant", "bee")[at % 2] / f"{number}.png", number)
    return tmp_path / "data"


def findings(root: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of opening a data set, which --strict makes an error."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        splits = open_splits(root)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(find_overlap(splits).findings)
    if said:
        with pytest.raises(ValueError, match="--strict") as error:
            open_splits(root, strict=True)
        assert all(finding in str(error.value) for finding in find_overlap(splits).findings)
    else:
        open_splits(root, strict=True)
    return said


def test_different_images_are_no_overlap(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(root / "train" / "ant" / "0.png", root / "train" / "ant" / "again.png")  # copied on purpose: same class
    assert findings(root, caplog) == []


@pytest.mark.parametrize("how", ["folder link", "file links", "hard links", "copies under other names", "one list"])
def test_val_that_is_train(root: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    shutil.rmtree(root / "val")
    files = sorted((root / "train").glob("*/*.png"))
    if how == "folder link":
        for name in ("ant", "bee"):
            (root / "val").mkdir(exist_ok=True)
            (root / "val" / name).symlink_to(root / "train" / name, target_is_directory=True)
        # A link from one split into another is refused by the walk, so lists name the images
        for split in ("train", "val"):
            names = sorted((root / split).glob("*/*.png"))
            lines = [f"{name.relative_to(root)} {name.parent.name == 'bee':d}\n" for name in names]
            (root / f"{split}.txt").write_text("".join(lines))
    elif how == "one list":
        lines = [f"{file.relative_to(root)} {file.parent.name == 'bee':d}\n" for file in files]
        for split in ("train", "val"):
            (root / f"{split}.txt").write_text("".join(lines))
    else:
        make = {"file links": os.symlink, "hard links": os.link}.get(how, shutil.copyfile)
        for number, file in enumerate(files):
            place = root / "val" / file.parent.name / f"other {number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            make(file, place)
    (said,) = findings(root, caplog)
    assert "6 of 6 val images are in train too (" in said
    assert "0.png of train)" in said


def test_some_of_val_and_test(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(root / "val", root / "test")
    shutil.copyfile(root / "train" / "bee" / "3.png", root / "val" / "bee" / "x.png")
    said = findings(root, caplog)
    assert len(said) == 2
    assert "1 of 5 val images are in train too (bee/x.png of val is bee/3.png of train)" in said[0]
    assert "4 of 4 test images are in val too" in said[1]
    record = describe_data(open_splits(root))
    assert [split.get("num_in_train") for split in record["splits"].values()] == [None, 1, None]


@pytest.mark.parametrize("again", ["ant/0.png", "ant/../ant/0.png", "link.png"])
def test_an_image_that_is_listed_twice(root: Path, caplog: pytest.LogCaptureFixture, again: str) -> None:
    (root / "train" / "link.png").symlink_to("ant/0.png")
    for split, extra in (("train", f"train/{again} 0\n"), ("val", "")):
        files = sorted((root / split).glob("*/*.png"))
        lines = [f"{file.relative_to(root)} {file.parent.name == 'bee':d}\n" for file in files]
        (root / f"{split}.txt").write_text("".join(lines) + extra)
    (said,) = findings(root, caplog)
    assert "train lists 1 images again that it has already (" in said
    assert "train/ant/0.png" in said


def test_an_image_under_two_labels(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copyfile(root / "train" / "ant" / "0.png", root / "train" / "bee" / "x.png")
    (said,) = findings(root, caplog)
    assert "1 images have more than one label (ant/0.png: ant, bee/x.png: bee)" in said
    shutil.copyfile(root / "train" / "ant" / "2.png", root / "val" / "bee" / "y.png")
    said_of_val, said = findings(root, caplog)
    assert "1 of 5 val images are in train too" in said_of_val
    assert "2 images have more than one label" in said


def test_packs_are_compared_by_their_checksums(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copyfile(root / "train" / "bee" / "3.png", root / "val" / "bee" / "x.png")
    splits = open_splits(root)
    pack(splits, tmp_path / "pack")
    (said,) = findings(tmp_path / "pack", caplog)
    assert "1 of 5 val images are in train too" in said


def test_a_run_remembers_that_its_val_is_in_train(caplog: pytest.LogCaptureFixture) -> None:
    splits = {"train": {"fingerprint": "t"}, "val": {"fingerprint": "v", "num_images": 9, "num_in_train": 3}}
    record = {"class_names": ["a"], "class_counts": [1], "splits": splits}
    warn_of_overlap(record, ["val", "test"], run=Path("run"))
    assert [each.getMessage() for each in caplog.records] == [
        "run: 3 of 9 val images are in train too: accuracies on val are too high"
    ]


def test_a_million_images_cost_nothing_to_compare() -> None:
    numbers = np.arange(1_000_000, dtype=np.uint64)

    def split(keys: np.ndarray) -> LongTailedDataset:
        nothing = np.zeros(len(keys), np.int64)
        return LongTailedDataset(
            root=Path(),
            paths=("",) * len(keys),
            labels=nothing,
            sizes=nothing,
            native=nothing,
            class_names=("a",),
            split="",
            fingerprint="",
            contents=keys,
        )

    overlap = find_overlap({"train": split(numbers), "val": split(numbers[-10:] + np.uint64(5))})
    assert overlap.shared == {("val", "train"): 5}


def test_data_info_and_verify_say_it(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(root / "train" / "bee" / "3.png", root / "val" / "bee" / "x.png")
    data_info.run([str(root), "--json", str(tmp_path / "info.json")])
    assert "1 of 5 val images are in train too" in caplog.text
    assert json.loads((tmp_path / "info.json").read_text())["splits"]["val"]["num_in_train"] == 1
    caplog.clear()
    for split in ("train", "val"):
        files = sorted((root / split).glob("*/*.png"))
        lines = [f"{file.relative_to(root)} {file.parent.name == 'bee':d}\n" for file in files]
        (root / f"iNaturalist18_{split}.txt").write_text("".join(lines))
    arguments = ["--dataset", "inat2018", "--data-root", str(root), "--json", str(tmp_path / "said.json")]
    with pytest.raises(ValueError, match="not iNaturalist 2018 as published"):
        data_verify.run(arguments)
    assert "1 of 5 val images are in train too" in caplog.text
    checks = {check["what"]: check["found"] for check in json.loads((tmp_path / "said.json").read_text())["checks"]}
    assert checks["val images in train too"] == "1"
