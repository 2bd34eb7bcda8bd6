"""A class is its name wherever names exist: sources that number classes otherwise are matched, or refused."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastlt.data import LongTailedDataset, open_splits

ANIMALS = ("ant", "zebra 10", "zebra 9")
COUNTS = {"train": (6, 4, 3), "val": (2, 2, 2)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, counts in COUNTS.items():
        for name, count in zip(ANIMALS, counts, strict=True):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("L", (4, 4 + index)).save(folder / f"{index}.png")
    return tmp_path


def by_folder(dataset: LongTailedDataset) -> set[tuple[str, str]]:
    """Return the pairs of a folder's name and the name of the class that its images got."""
    pairs = zip(dataset.paths, dataset.labels.tolist(), strict=True)
    return {(path.split("/")[-2], dataset.class_names[label]) for path, label in pairs}


def write_list(root: Path, split: str, order: Sequence[str], first: int = 0, start: str = "") -> None:
    """Write a list that numbers classes in an order."""
    files = sorted((root / split).glob("*/*.png"))
    lines = [f"{start}{file.relative_to(root)} {order.index(file.parent.name) + first}\n" for file in files]
    (root / f"{split}.txt").write_text("".join(lines))


def write_json(root: Path, split: str, categories: Mapping[Any, str | None], *, listed: bool = True) -> None:
    """Write COCO-style JSON whose categories, id to name, number the folders in their order."""
    ids = dict(zip(ANIMALS, categories, strict=False))
    files = sorted((root / split).glob("*/*.png"))
    content = {
        "images": [{"id": at, "file_name": str(file.relative_to(root))} for at, file in enumerate(files)],
        "annotations": [{"image_id": at, "category_id": ids[file.parent.name]} for at, file in enumerate(files)],
        "categories": [{"id": key, "name": name} for key, name in categories.items()] if listed else [],
    }
    (root / f"{split}.json").write_text(json.dumps(content))


def refuses(root: Path, *parts: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=str(root)) as error:
        open_splits(root, cache=False, **options)
    for part in parts:
        assert part in str(error.value)


SAME = {(name, name) for name in ANIMALS}


@pytest.mark.parametrize("where", ["", "train"])
def test_class_folders_are_found_by_the_names_in_classes_txt(root: Path, where: str) -> None:
    (root / where / "classes.txt").write_text("zebra 9\nzebra 10\nant\n")
    splits = open_splits(root, cache=False)
    for split in splits.values():
        assert split.class_names == ("zebra 9", "zebra 10", "ant")
        assert by_folder(split) == SAME
    assert splits["train"].class_counts.tolist() == [3, 4, 6]


def test_a_classes_txt_with_some_of_the_folders_is_refused(root: Path) -> None:
    (root / "classes.txt").write_text("ant\nzebra 10\nzebra 11\n")
    refuses(root, "no folder for zebra 11", "no name for zebra 9", "classes.txt")
    (root / "classes.txt").write_text("ant\nbee\nzebra 10\nzebra 9\n")
    refuses(root, "no folder for bee")
    (root / "classes.txt").write_text("ant\nzebra 10\nzebra 10\n")
    refuses(root, "no name for zebra 9")


def test_names_of_another_kind_are_said_to_follow_the_sorted_folders(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "classes.txt").write_text("Ameise\nZebra zehn\nZebra neun\n")
    with caplog.at_level(logging.INFO):
        splits = open_splits(root, cache=False)
    assert by_folder(splits["val"]) == {("ant", "Ameise"), ("zebra 10", "Zebra zehn"), ("zebra 9", "Zebra neun")}
    assert "ant is Ameise" in caplog.text


def test_a_val_list_of_another_order_is_refused_with_both(root: Path) -> None:
    write_list(root, "train", ANIMALS)
    write_list(root, "val", ("ant", "zebra 9", "zebra 10"))
    refuses(root, "/val.txt: ", "2 of 3 class folders", "zebra 9 is 1 here and 2 in train", "zebra 10 is 2 here and 1")
    write_list(root, "val", ANIMALS)
    assert by_folder(open_splits(root, cache=False)["val"]) == SAME


@pytest.mark.parametrize("depth", ["cam1/", "cam1/day2/"])
def test_folders_between_a_class_and_its_images_do_not_hide_another_order(root: Path, depth: str) -> None:
    for split in COUNTS:
        for folder in (root / split).iterdir():
            inner = folder / depth
            inner.mkdir(parents=True)
            for file in folder.glob("*.png"):
                file.rename(inner / file.name)
    for split, order in (("train", ANIMALS), ("val", ANIMALS[::-1])):
        files = sorted((root / split).rglob("*.png"))
        lines = [f"{file.relative_to(root)} {order.index(file.relative_to(root).parts[1])}\n" for file in files]
        (root / f"{split}.txt").write_text("".join(lines))
    refuses(root, "/val.txt: ", "zebra 9 is 0 here and 2 in train")


def test_a_wrong_label_is_no_other_order_and_shared_folders_are_no_classes(root: Path) -> None:
    for number in range(40):
        Image.new("L", (5, 5 + number)).save(root / "train" / "ant" / f"more {number}.png")
    write_list(root, "train", ANIMALS)
    text = (root / "train.txt").read_text()
    (root / "train.txt").write_text(text.replace("zebra 9/0.png 2", "zebra 9/0.png 1"))
    write_list(root, "val", ANIMALS)
    assert open_splits(root, cache=False)["train"].class_counts.tolist() == [46, 5, 2]
    # One folder for all says nothing, however long the head is
    for split, labels in (("train", [0] * 60 + [1, 2]), ("val", [2, 2, 1, 0])):
        (root / split / "images").mkdir()
        for at in range(len(labels)):
            Image.new("L", (3, 3 + at)).save(root / split / "images" / f"{at}.png")
        (root / f"{split}.txt").write_text("".join(f"{split}/images/{at}.png {n}\n" for at, n in enumerate(labels)))
    assert open_splits(root, cache=False)["val"].class_counts.tolist() == [1, 1, 2]


def test_numbers_in_lists_are_those_of_classes_txt(root: Path) -> None:
    for split in COUNTS:
        write_list(root, split, ANIMALS)
    (root / "classes.txt").write_text("ant\nzebra 9\nzebra 10\n")
    refuses(root, "/train.txt: ", "zebra 10 has number 1, which is zebra 9", "zebra 9 has number 2, which is zebra 10")
    for split in COUNTS:
        write_list(root, split, ("ant", "zebra 9", "zebra 10"))
    assert by_folder(open_splits(root, cache=False)["val"]) == SAME
    with pytest.raises(ValueError, match="zebra 9 has number 1, which is zebra 10"):
        LongTailedDataset.from_list(root / "val.txt", root, class_names=ANIMALS, cache=False)


def test_lists_that_count_from_one_are_taken_down_and_said_so(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in COUNTS:
        write_list(root, split, ANIMALS, first=1)
    with caplog.at_level(logging.INFO):
        splits = open_splits(root, cache=False)
    assert [by_folder(split) for split in splits.values()] == [SAME, SAME]
    assert splits["train"].class_counts.tolist() == [6, 4, 3]
    assert "from 1 to 3" in caplog.text
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in ANIMALS))
    assert by_folder(open_splits(root, cache=False)["val"]) == SAME


def test_lists_that_may_count_from_zero_keep_their_numbers(root: Path) -> None:
    for split in COUNTS:
        write_list(root, split, ANIMALS, first=1)
    (root / "classes.txt").write_text("none\nant\nzebra 10\nzebra 9\n")
    refuses(root, "/train.txt: ", "1 of 4 classes, 0 (none)")  # a class that has no image
    (root / "classes.txt").unlink()
    write_list(root, "val", ANIMALS)
    refuses(root, "/train.txt: ", "1 of 4 classes, 0")


def test_categories_are_matched_by_name(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(root, "train", {1: "ant", 2: "zebra 10", 3: "zebra 9"})
    write_json(root, "val", {1: "ant", 3: "zebra 10", 2: "zebra 9"})
    with caplog.at_level(logging.INFO):
        splits = open_splits(root, cache=False)
    assert [by_folder(split) for split in splits.values()] == [SAME, SAME]
    assert "zebra 9 is 2 here and 3 in train" in caplog.text
    write_json(root, "val", {10: "ant", 11: "zebra 10", 12: "zebra 9"})
    assert by_folder(open_splits(root, cache=False)["val"]) == SAME


@pytest.mark.parametrize(
    "names", [("ant", "zebra 10", "zebra nine"), ("Hund", "Katze", "Maus"), ("ant", "bee", "zebra 10")]
)
def test_other_names_of_the_same_categories_are_refused(root: Path, names: tuple[str, ...]) -> None:
    write_json(root, "train", dict(enumerate(ANIMALS, 1)))
    write_json(root, "val", dict(enumerate(names, 1)))
    wrong = next(at for at, name in enumerate(names) if name not in ANIMALS)
    refuses(root, "/val.json: ", f"{wrong + 1} is {names[wrong]} here and {ANIMALS[wrong]} in train")


def test_categories_without_names_are_matched_by_id(root: Path) -> None:
    write_json(root, "train", dict(enumerate(ANIMALS, 1)))
    for listed in (True, False):
        write_json(root, "val", {1: None, 2: None, 3: None}, listed=listed)
        assert by_folder(open_splits(root, cache=False)["val"]) == SAME
    write_json(root, "train", {1: None, 2: None, 3: None})
    write_json(root, "val", dict(enumerate(ANIMALS, 1)))
    assert open_splits(root, cache=False)["val"].labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_category_without_an_image_in_train_is_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(root, "train", {5: "ant", 7: "zebra 10", 8: "zebra 9", 0: "animals", 6: "bee"})
    write_json(root, "val", {5: "ant", 7: "zebra 10", 8: "zebra 9", 6: "bee"})
    with caplog.at_level(logging.INFO):
        splits = open_splits(root, cache=False)
    assert splits["train"].class_names == ANIMALS
    assert by_folder(splits["val"]) == SAME
    assert "2 of 5 categories" in caplog.text
    assert "animals, bee" in caplog.text
    write_json(root, "val", {6: "bee", 5: "ant", 7: "zebra 10"})
    refuses(root, "/val.json: ", "no image in train, 6 (bee)")


def test_ids_of_categories_may_be_text(root: Path) -> None:
    write_json(root, "train", {"n07": "ant", "n02": "zebra 10", "12": "zebra 9"})
    write_json(root, "val", {"n07": "ant", "n02": "zebra 10", 12: "zebra 9"})
    splits = open_splits(root, cache=False)
    assert [by_folder(split) for split in splits.values()] == [SAME, SAME]
    assert splits["train"].class_names == ("zebra 9", "zebra 10", "ant")  # 12, n02, n07


def test_an_id_with_an_underscore_is_not_the_number_without_it(root: Path) -> None:
    for split in ("train", "val"):
        write_json(root, split, {"1_1": None, "11": None, "2": None}, listed=False)
    splits = open_splits(root, cache=False)
    assert splits["train"].class_names == ("2", "11", "1_1")
    assert by_folder(splits["val"]) == {("zebra 9", "2"), ("zebra 10", "11"), ("ant", "1_1")}


@pytest.mark.parametrize("form", ["classes.txt", "json"])
def test_classes_with_one_name_are_said(root: Path, caplog: pytest.LogCaptureFixture, form: str) -> None:
    for split in ("train", "val"):
        if form == "json":
            write_json(root, split, {1: "ant", 2: "zebra", 3: "zebra"})
        else:
            write_list(root, split, ANIMALS)
            (root / "classes.txt").write_text("ant\nzebra\nzebra\n")
    splits = open_splits(root, cache=False)
    assert splits["train"].class_counts.tolist() == [6, 4, 3]
    assert caplog.text.count("1 names are those of several classes, zebra (2)") == 1
