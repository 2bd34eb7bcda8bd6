import io
import json
import logging
import pickle

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fastlt.data import LongTailedDataset, SkippedFile, open_splits
from fastlt.runtime.log import ConsoleHandler

COUNTS = {"train": {"ant": 130, "bee": 20, "cow eye": 4}, "val": {"ant": 2, "bee": 2, "cow eye": 2}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


def write(root, counts=COUNTS):
    for split, classes in counts.items():
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (8 + number % 3, 5)).save(folder / f"image {number:03d}.jpg")
    return root


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "data")


def members(root, split):
    return [
        (f"{split}/{name}/image {number:03d}.jpg", label)
        for label, (name, count) in enumerate(COUNTS[split].items())
        for number in range(count)
    ]


def write_lists(root, folder, name="{}.txt"):
    folder.mkdir(exist_ok=True)
    for split in COUNTS:
        text = "".join(f"{path} {label}\n" for path, label in members(root, split))
        (folder / name.format(split)).write_text(text)


def coco(root, split, *, categories=True):
    ids = (7, 30, 31)
    content = {
        "images": [{"id": at, "file_name": path} for at, (path, _) in enumerate(members(root, split))],
        "annotations": [{"image_id": at, "category_id": ids[y]} for at, (_, y) in enumerate(members(root, split))],
    }
    if categories:
        content["categories"] = [{"id": key, "name": name} for key, name in zip(ids, COUNTS["train"], strict=True)]
    return content


def write_coco(root, folder, **options):
    folder.mkdir(exist_ok=True)
    for split in COUNTS:
        (folder / f"{split}2018.json").write_text(json.dumps(coco(root, split, **options)))


def check(splits, root):
    assert list(splits) == ["train", "val"]
    for split, dataset in splits.items():
        assert dataset.split == split
        assert dataset.class_names == ("ant", "bee", "cow eye")
        assert dataset.labels.dtype == np.int64
        files = [dataset.path(at).relative_to(root).as_posix() for at in range(len(dataset))]
        assert list(zip(files, dataset.labels.tolist(), strict=True)) == members(root, split)
        assert dataset.sizes.tolist() == [[8 + number % 3, 5] for n in COUNTS[split].values() for number in range(n)]
        assert dataset.native.all()


def test_a_folder_of_class_folders(root):
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "ant" / ".cache.jpg").write_bytes(b"")
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    check(open_splits(root), root)


@pytest.mark.parametrize("place", [".", "lists"])
def test_lists_come_before_folders(root, place):
    write_lists(root, root / place)
    (root / "train" / "dog").mkdir()
    check(open_splits(root), root)


def test_lists_elsewhere_under_the_names_of_the_released_ones(root, tmp_path):
    write_lists(root, tmp_path / "elsewhere", "ImageNet_LT_{}.txt")
    check(open_splits(root, lists=tmp_path / "elsewhere"), root)


def test_lists_by_name(root):
    write_lists(root, root / "lists", "mine-{}.list")
    check(open_splits(root, train="mine-train.list", val="mine-val.list"), root)


def test_a_list_that_says_where_its_images_are(root, tmp_path):
    write_lists(root, tmp_path / "out")
    (tmp_path / "out" / "root.txt").write_text(f"{root}\n")
    check(open_splits(tmp_path / "out"), root)


@pytest.mark.parametrize("place", [".", "annotations"])
def test_coco_style_json(root, place):
    write_coco(root, root / place)
    check(open_splits(root), root)


def test_coco_style_json_without_names(root):
    write_coco(root, root, categories=False)
    assert open_splits(root)["val"].class_names == ("7", "30", "31")


def test_a_val_file_without_names_has_those_of_train(root):
    for split in COUNTS:
        (root / f"{split}.json").write_text(json.dumps(coco(root, split, categories=split == "train")))
    assert open_splits(root)["val"].class_names == ("ant", "bee", "cow eye")


def test_only_a_split_with_the_classes_of_another_may_lack_one(root):
    for split in ("train", "val"):
        for file in (root / split / "bee").iterdir():
            file.unlink()
    with pytest.raises(ValueError, match=r"/train: got .* 1 of 3 classes, 1 \(bee\)"):
        LongTailedDataset.from_folder(root / "train")
    val = LongTailedDataset.from_folder(root / "val", class_folders=("ant", "bee", "cow eye"))
    assert val.class_counts.tolist() == [2, 0, 2]


def test_images_are_found_behind_links_but_not_in_hidden_folders(tmp_path):
    write(tmp_path / "far", {"more": {"cat": 1}})
    root = write(tmp_path / "data")
    (root / "train" / "ant" / "linked").symlink_to(tmp_path / "far" / "more" / "cat", target_is_directory=True)
    for name in (".thumbnails", "kept."):
        (root / "train" / "ant" / name).mkdir()
        Image.new("L", (8, 5)).save(root / "train" / "ant" / name / "x.JPG")
    Image.new("L", (8, 5)).save(root / "train" / "ant" / ".hidden.jpg")
    paths = open_splits(root)["train"].paths
    assert {path for path in paths if "/image" not in path} == {"ant/kept./x.JPG"}
    assert "ant/linked/image 000.jpg" in paths
    assert len(paths) == 154 + 2


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ("ant/image 000.jpg 0\nbee/image 000.jpg 1\n", ("ant", "bee")),
        ("ant/image 000.jpg 0\nant/image 001.jpg 1\n", ("0", "1")),  # one folder, two classes
        ("ant/image 000.jpg 0\nbee/image 000.jpg 0\nbee/image 001.jpg 1\n", ("0", "1")),  # two folders, one class
    ],
)
def test_classes_are_named_after_their_folders_where_each_has_one(root, tmp_path, train, names):
    (tmp_path / "train.txt").write_text(train)
    assert LongTailedDataset.from_list(tmp_path / "train.txt", root / "train").class_names == names


def test_the_constructors_agree(root):
    write_lists(root, root)
    write_coco(root, root)
    folder = LongTailedDataset.from_folder(root / "train")
    listed = LongTailedDataset.from_list(root / "train.txt", root)
    annotated = LongTailedDataset.from_coco(root / "train2018.json", root)
    assert (folder.labels == listed.labels).all()
    assert (folder.labels == annotated.labels).all()
    assert listed.fingerprint == annotated.fingerprint
    assert (folder.split, listed.split, annotated.split) == ("train", "train", "train2018")


def test_validation_folder_and_optional_test(root):
    (root / "val").rename(root / "validation")
    write(root, {"test": {"ant": 1, "bee": 1, "cow eye": 1}})
    splits = open_splits(root)
    assert list(splits) == ["train", "val", "test"]
    assert len(splits["test"]) == 3


def test_a_test_folder_without_labels_is_no_split(root):
    (root / "test").mkdir()
    Image.new("L", (4, 4)).save(root / "test" / "1.jpg")
    assert list(open_splits(root)) == ["train", "val"]


def test_val_may_lack_a_class_and_keeps_the_numbers_of_train(root):
    for file in (root / "val" / "bee").iterdir():
        file.unlink()
    (root / "val" / "bee").rmdir()
    val = open_splits(root)["val"]
    assert val.class_counts.tolist() == [2, 0, 2]


def test_classes_txt_names_the_classes(root):
    (root / "classes.txt").write_text("Ameise\nBiene\nKuhauge\n")
    assert open_splits(root)["train"].class_names == ("Ameise", "Biene", "Kuhauge")
    write_lists(root, root)
    assert open_splits(root)["val"].class_names == ("Ameise", "Biene", "Kuhauge")


def test_counts_ratio_and_groups(root):
    train = open_splits(root)["train"]
    assert train.class_counts.tolist() == [130, 20, 4]
    assert train.class_counts.dtype == np.int64
    assert train.imbalance_ratio == 32.5
    assert {name: ids.tolist() for name, ids in train.shot_groups().items()} == {"many": [0], "medium": [1], "few": [2]}
    assert train.shot_groups(many=129, few=21)["few"].tolist() == [1, 2]
    assert repr(train).startswith("LongTailedDataset('train', 154 images, 3 classes")


def test_a_dataset_survives_pickling(root):
    train = open_splits(root)["train"]
    again = pickle.loads(pickle.dumps(train))
    assert again.paths == train.paths
    assert (again.labels == train.labels).all()


def test_unreadable_files_are_skipped_named_and_counted(root, caplog, tmp_path):
    (root / "train" / "ant" / "image 000.jpg").write_bytes(b"")
    (root / "train" / "bee" / "image 003.jpg").write_bytes(b"<html>")
    with caplog.at_level(logging.WARNING):
        train = open_splits(root)["train"]
    assert train.class_counts.tolist() == [129, 19, 4]
    assert len(train.sizes) == len(train.native) == len(train.labels) == len(train.paths) == 152
    assert train.skipped[0] == SkippedFile("ant/image 000.jpg", "empty file")
    assert "not an image" in train.skipped[1].reason
    assert "2 of 154 train files" in caplog.text
    (report,) = (tmp_path / "cache" / "index").glob("*.skipped.txt")
    assert str(report) in caplog.text
    assert [line.split("\t")[0] for line in report.read_text().splitlines()] == [
        "ant/image 000.jpg",
        "bee/image 003.jpg",
    ]


def test_a_command_tells_of_skipped_files_once_however_the_root_is_spelled(root, monkeypatch):
    (root / "train" / "ant" / "image 000.jpg").write_bytes(b"")
    monkeypatch.chdir(root.parent)
    console = Console(file=io.StringIO())
    monkeypatch.setattr(logging.getLogger("fastlt"), "handlers", [ConsoleHandler(console)])
    for spelled in (root, root.name, root):
        open_splits(spelled)
    assert console.file.getvalue().count("1 of 154 train files") == 1
    (root / "train" / "ant" / "image 001.jpg").write_bytes(b"")
    open_splits(root)
    assert console.file.getvalue().count("2 of 154 train files") == 1


def test_strict_stops_and_names_the_first_ten(root):
    for number in range(12):
        (root / "train" / "ant" / f"image {number:03d}.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"/train: got 12 of 154 train files .*ant/image 009.jpg \(empty file\) and 2 more;.*--strict"
    ) as e:
        open_splits(root, strict=True)
    assert "image 010" not in str(e.value)


def test_the_fingerprint_follows_the_files(root):
    before = open_splits(root)["train"].fingerprint
    assert open_splits(root, cache=False)["train"].fingerprint == before
    Image.new("L", (9, 9)).save(root / "train" / "ant" / "image 000.jpg")
    assert open_splits(root)["train"].fingerprint != before
