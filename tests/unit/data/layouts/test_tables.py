"""A table of images and classes beside a folder of images, as on Kaggle."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from fastlt.data import LongTailedDataset, open_splits, split_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


COUNTS = {"ant": 9, "bee": 5, "cow": 4}


def images(root: Path, paths: Sequence[str]) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / path)


def kaggle(
    root: Path, form: str = "{id},{label}", header: str = "image,label", counts: dict[str, int] = COUNTS
) -> Path:
    """Write images/ with numbered images, and train.csv, which names each with its class."""
    labels = [name for name, count in counts.items() for _ in range(count)]
    images(root, [f"images/{number:04}.jpg" for number in range(len(labels))])
    rows = [form.format(id=f"{number:04}.jpg", number=number, label=label) for number, label in enumerate(labels)]
    (root / "train.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return root


def members(splits: dict[str, LongTailedDataset]) -> dict[str, str]:
    return {
        path: split.class_names[label]
        for split in splits.values()
        for path, label in zip(split.paths, split.labels.tolist(), strict=True)
    }


EXPECTED = {f"images/{at:04}.jpg": label for at, label in enumerate(["ant"] * 9 + ["bee"] * 5 + ["cow"] * 4)}
FORMS = {
    "plain": ("image,label", "{id},{label}"),
    "no suffix": ("id,breed", "{number:04},{label}"),
    "without zeros": ("id,breed", "{number},{label}"),
    "decimals": ("Image ID,Class", "{number}.0,{label}"),
    "semicolons": ("image;label", "{id};{label}"),
    "decimal commas": ("image;label", "{number},0;{label}"),
    "tabs": ("image\tlabel", "{id}\t{label}"),
    "mark": ("\ufeffimage,label", "{id},{label}"),
    "paths": ("file,category", "images/{id},{label}"),
    "backslashes": ("file,category", "images\\{id},{label}"),
    "from elsewhere": ("file,category", "./images/{id},{label}"),
    "quotes": ('"image","label"', '"{id}","{label}"'),
    "more columns": ("width,label,image,note", "4,{label},{id},x"),
    "other names": ("photograph,species", "{id},{label}"),
    "no header": ("0000.jpg,ant", "{id},{label}"),
    "spaces": (" image , label ", " {id} , {label} "),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_split_reads_it_and_train_finds_the_lists(tmp_path: Path, form: str) -> None:
    root = kaggle(tmp_path / "set", FORMS[form][1], FORMS[form][0])
    summary = split_folder(root)
    assert (summary.num_classes, summary.num_images) == (3, {"train": 10, "val": 3, "test": 5})
    splits = open_splits(root)
    assert splits["train"].class_names == ("ant", "bee", "cow")
    assert members(splits) == EXPECTED


def test_train_and_val_tables_open_as_they_are_and_a_test_without_classes_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = kaggle(tmp_path / "set")
    (root / "val.csv").write_text("image,label\n0000.jpg,cow\n")
    (root / "test.csv").write_text("image\n0001.jpg\n")
    with caplog.at_level(logging.INFO, "fastlt"):
        splits = open_splits(root)
    assert f"{root}/test.csv" in [message.partition(":")[0] for message in caplog.messages]
    assert {name: len(split) for name, split in splits.items()} == {"train": 18, "val": 1}
    assert (splits["val"].class_names, splits["val"].labels.tolist()) == (("ant", "bee", "cow"), [2])
    (root / "val.csv").write_text("image,label\n0000.jpg,dog\n")
    with pytest.raises(ValueError, match=rf"^{root}/val\.csv: got 1 classes that train lacks, dog;"):
        open_splits(root)


def test_a_column_a_class(tmp_path: Path) -> None:
    root = kaggle(tmp_path / "set")
    text = "image,ant,bee,cow\n" + "".join(
        f"{Path(path).stem},{label == 'ant':d}.0,{label == 'bee':d},{label == 'cow':d}\n"
        for path, label in EXPECTED.items()
    )
    (root / "train.csv").write_text(text)
    split_folder(root)
    assert members(open_splits(root)) == EXPECTED
    (root / "train.csv").write_text(text.replace("0000,1.0,0,0", "0000,1.0,1,0"))
    with pytest.raises(ValueError, match="got the columns image, ant, bee, cow"):
        split_folder(root, tmp_path / "lists")


def test_tables_in_a_folder_of_their_own(tmp_path: Path) -> None:
    root = kaggle(tmp_path / "set")
    (tmp_path / "tables").mkdir()
    for split in ("train", "val"):
        (tmp_path / "tables" / f"{split}.csv").write_bytes((root / "train.csv").read_bytes())
    assert len(open_splits(root, lists=tmp_path / "tables")["val"]) == 18


def test_without_val_the_way_that_works_is_named(tmp_path: Path) -> None:
    root = kaggle(tmp_path / "set")
    with pytest.raises(ValueError, match=rf"^{root}/train\.csv: got .*`fastlt data split {root}`"):
        open_splits(root)


def test_the_folder_of_the_split_decides_between_images_of_one_name(tmp_path: Path) -> None:
    root = tmp_path / "set"
    images(root, [f"{folder}/{number}.png" for folder in ("train_images", "test_images") for number in range(8)])
    (root / "train.csv").write_text("image_id,label\n" + "".join(f"{at},{'ab'[at % 2]}\n" for at in range(8)))
    split_folder(root, test_per_class=0)
    assert {path.partition("/")[0] for split in open_splits(root).values() for path in split.paths} == {"train_images"}
    images(root, [f"train_more/{number}.png" for number in range(8)])
    with pytest.raises(ValueError, match=rf"^{root}/train\.csv: got 8 images of which there are several, 0 "):
        split_folder(root, tmp_path / "lists")


def test_an_image_that_is_missing_is_not_the_one_of_its_name_in_another_split(tmp_path: Path) -> None:
    images(
        tmp_path, [*(f"train_images/{at}.png" for at in (0, 1, 2, 7)), *(f"test_images/{at}.png" for at in range(5))]
    )
    images(tmp_path, ["val_images/1.png"])
    rows = [f"{at},{'ab'[at % 2]}" for at in range(5)]
    (tmp_path / "train.csv").write_text("\n".join(["id,label", *rows]))
    with pytest.raises(FileNotFoundError, match=r"got 2 of 5 images that do not exist under .*, 3, 4;"):
        split_folder(tmp_path)
    rows[3:] = ["test_images/3.png,a", "test_images/4,b"]
    (tmp_path / "train.csv").write_text("\n".join(["id,label", *rows]))
    (tmp_path / "val.csv").write_text("\n".join(["id,label", "train_images/0,a", "7,b"]))
    splits = open_splits(tmp_path)
    assert splits["train"].paths[2:] == ("train_images/2.png", "test_images/3.png", "test_images/4.png")
    assert splits["val"].paths == ("train_images/0.png", "train_images/7.png")


def test_train_images_in_a_folder_of_test_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path, [f"test/{at}.png" for at in range(8)])
    (tmp_path / "train.csv").write_text("\n".join(["id,label", *(f"{at},{'ab'[at % 2]}" for at in range(8))]))
    split_folder(tmp_path)
    assert "8 of its images lie in a folder of another split, as test/0.png" in caplog.text


def test_a_submission_is_no_table_of_train_images(tmp_path: Path) -> None:
    images(tmp_path, [f"images/{at}.png" for at in range(8)])
    (tmp_path / "sample_submission.csv").write_text(
        "\n".join(["id,label", *(f"{at},{'ab'[at % 2]}" for at in range(8))])
    )
    with pytest.raises(ValueError, match="images, without classes"):
        split_folder(tmp_path)


def test_a_number_in_two_forms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 1 numbers of classes in two forms, 01 and 1;"):
        split_folder(kaggle(tmp_path, counts={"01": 4, "1": 4, "2": 4}))


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    root = kaggle(tmp_path / "set", counts={"10.0": 4, "2.0": 4, "1.0": 4})
    split_folder(root)
    assert open_splits(root)["train"].class_names == ("1", "2", "10")


FAULTS = {
    "no class": ("image,label\n0000.jpg,\n", r"row 2: got \['0000\.jpg', ''\]"),
    "absent": ("image,label\n0000.jpg,ant\nx.jpg,bee\n", r"got 1 of 2 images that do not exist under .*, x\.jpg;"),
    "two classes": (
        "image,label\n0000.jpg,ant\n0000,bee\n",
        r"1 images with several classes, .*0000\.jpg \(ant, bee\)",
    ),
    "one class": ("image,label\n0000.jpg,ant\n0001.jpg,ant\n", r"got one class, ant;"),
    "columns": ("a,b,c\n1,2,3\n", r"got the columns a, b, c; expected .*image.*label"),
    "no classes": ("image,width,height\n0000.jpg,2,3\n", r"got the columns image, width, height;"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_table_cannot_say_is_an_error_and_never_a_set_of_one_class(tmp_path: Path, fault: str) -> None:
    root = kaggle(tmp_path / "set")
    text, message = FAULTS[fault]
    (root / "train.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        split_folder(root)
    assert not (root / "lists").exists()


@pytest.mark.parametrize("folders", [["images"], ["train_images", "test_images"], ["train", "test"], ["whatever"]])
def test_folders_of_images_are_no_classes(tmp_path: Path, folders: list[str]) -> None:
    root = tmp_path / "set"
    images(root, [f"{folder}/{number}.png" for folder in folders for number in range(8)])
    with pytest.raises((ValueError, FileNotFoundError), match="class") as caught:
        split_folder(root)
    assert "train folder" in str(caught.value) or "train.csv" in str(caught.value)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_splits(root)
    assert "data split" not in str(caught.value) or "train" in folders


def test_class_folders_come_before_a_table_about_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "set"
    images(root, [f"{name}/{number}.png" for name in ("ant", "bee") for number in range(5)])
    (root / "train.csv").write_text("image,label\nant/1.png,ant\nbee/1.png,bee\n")
    assert sum(split_folder(root, root / "lists").num_images.values()) == 10
    (root / "train.csv").write_text("image,label\nfar/1.png,ant\n")
    assert sum(split_folder(root, tmp_path / "other").num_images.values()) == 10
    assert any("class folders count" in message for message in caplog.messages)


def test_names_in_either_unicode_form_are_the_same(tmp_path: Path) -> None:
    root = tmp_path / "set"
    images(root, [f"images/cafe\u0301 {number}.png" for number in range(8)])
    rows = "".join(f"caf\u00e9 {at}.png,{'ae'[at % 2]}\u0301\n" for at in range(4))
    rows += "".join(f"caf\u00e9 {at}.png,{'áé'[at % 2]}\n" for at in range(4, 8))
    (root / "train.csv").write_text("image,label\n" + rows, encoding="utf-8")
    assert split_folder(root, test_per_class=0).num_classes == 2
    assert len(open_splits(root)["train"]) == 6


def test_a_table_of_windows_letters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = {"caf\xe9": 5, "na\xefve": 4}
    kaggle(tmp_path, "{id};{label}", "image;label", counts)
    images(tmp_path, ["images/\xe9.png", os.fsdecode(b"images/\xef.png")])
    table = (tmp_path / "train.csv").read_text(encoding="utf-8") + "\xe9.png;caf\xe9\n\xef;na\xefve\n"
    (tmp_path / "train.csv").write_text(table, encoding="cp1252")
    split_folder(tmp_path)
    splits = open_splits(tmp_path)
    assert splits["train"].class_names == tuple(counts)
    assert members(splits)["images/\xe9.png"] == "caf\xe9"
    assert members(splits)[os.fsdecode(b"images/\xef.png")] == "na\xefve"
    assert "train.csv: it is no UTF-8" in caplog.text
