"""Every mistake in a data set gives one line that says what was got, what was expected and what to do."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from fastlt.config import TrainConfig
from fastlt.data import LongTailedDataset, open_splits
from fastlt.training.setup import check_classes


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            save(folder / split / name / "1.jpg")
    return folder


def save(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(file)


def refuses(pattern, action, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=pattern) as caught:
        action(*args, **kwargs)
    assert "\n" not in str(caught.value)


def remove(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_absent_root(tmp_path):
    refuses("data root .*none does not exist.*--data-root", open_splits, tmp_path / "none", error=FileNotFoundError)


def test_root_is_a_file(root):
    refuses("is a file, expected the folder", open_splits, root / "train" / "ant" / "1.jpg")


def test_class_folders_only(root):
    (root / "train").rename(root.parent / "animals")
    refuses(r"class folders only \(ant, bee\).*`fastlt data split", open_splits, root.parent / "animals")


@pytest.mark.parametrize("inner", ["train", "val"])
def test_a_split_given_as_root(root, inner):
    refuses(f"itself a split: give its parent {root}", open_splits, root / inner)


def test_one_level_too_high(root):
    refuses(f"but {root} has: give that as data root", open_splits, root.parent)


def test_images_without_class_folders(tmp_path):
    save(tmp_path / "data" / "1.jpg")
    refuses("images without class folders", open_splits, tmp_path / "data")


def test_nothing_there(tmp_path):
    refuses("holds no data set", open_splits, tmp_path)


def test_images_directly_in_train(root):
    for name in ("ant", "bee"):
        remove(root / "train" / name)
    save(root / "train" / "1.jpg")
    refuses("train holds 1 images, expected a folder a class", open_splits, root, error=FileNotFoundError)


def test_nothing_in_train(root):
    for name in ("ant", "bee"):
        remove(root / "train" / name)
    refuses("train is empty, expected a folder a class", open_splits, root, error=FileNotFoundError)


def test_classes_one_level_too_deep(root):
    (root / "train").rename(root / "images")
    (root / "train").mkdir()
    (root / "images").rename(root / "train" / "images")
    refuses(r"one class folder, images, which holds folders itself \(ant, bee\).*one level up", open_splits, root)


def test_no_val(root):
    for name in ("ant", "bee"):
        remove(root / "val" / name)
    (root / "val").rmdir()
    refuses("no val split.*`fastlt data split .*train` and", open_splits, root)


def test_empty_val(root):
    for name in ("ant", "bee"):
        (root / "val" / name / "1.jpg").unlink()
    refuses("the val split is empty", open_splits, root)


def test_val_without_class_folders(root):
    for name in ("ant", "bee"):
        remove(root / "val" / name)
    refuses("the val split is empty|val is empty, expected a folder a class", open_splits, root)


def test_a_class_without_a_train_image(root):
    (root / "train" / "bee" / "1.jpg").unlink()
    refuses(r"1 of 2 classes have no train image: 1 \(bee\)", open_splits, root)


def test_a_class_whose_only_image_is_broken(root, caplog):
    (root / "train" / "bee" / "1.jpg").write_bytes(b"")
    refuses(r"classes have no train image: 1 \(bee\)", open_splits, root)
    assert "empty file" in next((root.parent / "cache" / "index").glob("*.skipped.txt")).read_text()


def test_a_class_of_files_with_other_suffixes(root):
    (root / "train" / "bee" / "1.jpg").rename(root / "train" / "bee" / "1.dat")
    refuses("bee has no image .1 files with other suffixes", open_splits, root)


def test_no_file_is_an_image(root):
    for name in ("ant", "bee"):
        (root / "val" / name / "1.jpg").write_bytes(b"?")
    refuses("none of the 2 files is an image: ant/1.jpg", open_splits, root)


def test_a_val_class_that_train_lacks(root):
    save(root / "val" / "cow" / "1.jpg")
    refuses("1 classes that train lacks: cow", open_splits, root)


def test_class_names_of_another_number(root):
    (root / "classes.txt").write_text("one\ntwo\nthree\n")
    refuses("2 class folders but 3 class names", open_splits, root)


def lists(root, train, val="val/ant/1.jpg 0\n"):
    (root / "train.txt").write_text(train)
    (root / "val.txt").write_text(val)
    return root


GOOD = "train/ant/1.jpg 0\ntrain/bee/1.jpg 1\n"


@pytest.mark.parametrize(
    ("train", "pattern"),
    [
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg\n", r"train.txt, line 2: got 'train/bee/1.jpg', expected `path label`"),
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg one\n", r"line 2: got .* integer label"),
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg 1.5\n", r"line 2"),
        (f"train/ant/1.jpg {10**30}\n", r"line 1"),
        ("train/ant/1.jpg -1\ntrain/bee/1.jpg 0\n", r"got label -1, expected 0"),
        ("train/ant/1.jpg 1\ntrain/bee/1.jpg 2\n", r"1 of 3 classes have no train image: 0; .*contiguous from 0"),
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg 2\n", r"1 of 3 classes have no train image: 1; .*contiguous"),
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg 2000000000\n", r"1999999999 of 2000000001 classes.*1, 2, 3, 4, 5, \.\.\."),
        ("", r"the train split is empty"),
    ],
)
def test_lists_with_bad_labels(root, train, pattern):
    refuses(pattern, open_splits, lists(root, train))


def test_a_val_label_out_of_range(root):
    refuses(
        r"val.txt: got label 2 \(val/bee/1.jpg\), expected 0 .. 1, the 2 classes of train",
        open_splits,
        lists(root, GOOD, "val/ant/1.jpg 0\nval/bee/1.jpg 2\n"),
    )


def test_a_list_longer_than_its_class_names(root):
    (root / "classes.txt").write_text("only\n")
    refuses(r"got label 1 .*classes named in classes.txt", open_splits, lists(root, GOOD))


def test_an_empty_val_list(root):
    refuses("val.txt: the val split is empty", open_splits, lists(root, GOOD, "\n"))


def test_a_list_that_names_absent_files(root):
    gone = "".join(f"train/gone/{number}.jpg 0\n" for number in range(9))
    refuses(
        r"train.txt: 9 of 11 files do not exist under .*train/gone/0.jpg.*\.\.\.; check the data root",
        open_splits,
        lists(root, GOOD + gone),
        error=FileNotFoundError,
    )


def test_absent_lists(root, tmp_path):
    refuses("other.txt does not exist; looked for", open_splits, root, train="other.txt", error=FileNotFoundError)
    refuses("holds no train.txt", open_splits, root, lists=tmp_path, error=FileNotFoundError)
    refuses("list file .* does not exist", LongTailedDataset.from_list, root / "x.txt", root, error=FileNotFoundError)
    refuses("the folder that the paths", LongTailedDataset.from_list, lists(root, GOOD) / "train.txt", root / "no",
            error=FileNotFoundError)  # fmt: skip


def test_a_missing_val_list_is_looked_for_beside_that_of_train(root, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.txt").write_text(GOOD)
    refuses(r"mine has train.txt but no list for val; expected val.txt", open_splits, root, lists=tmp_path / "mine")
    refuses("train.txt is named for train, but", open_splits, root, train=str(tmp_path / "mine" / "train.txt"))
    refuses("--lists: no is no folder", open_splits, root, lists="no", error=FileNotFoundError)


def test_several_lists_of_a_split(root):
    for name in ("a_train.txt", "b_train.txt"):
        (root / name).write_text(GOOD)
    refuses(r"several train lists \(a_train.txt, b_train.txt\)", open_splits, root)


def test_several_files_of_a_split(root):
    for name in ("train_a.json", "train_b.json", "val.json"):
        (root / name).write_text("{}")
    refuses(r"several train files \(train_a.json, train_b.json\); expected one", open_splits, root)


IMAGES = [{"id": 1, "file_name": "train/ant/1.jpg"}, {"id": 2, "file_name": "train/bee/1.jpg"}]
ANNOTATIONS = [{"image_id": 1, "category_id": 5}, {"image_id": 2, "category_id": 6}]


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ({"images": IMAGES}, "has no 'annotations'; expected COCO-style JSON"),
        ({"images": IMAGES, "annotations": []}, "has no 'annotations'"),
        ({"annotations": ANNOTATIONS}, "has no 'images'"),
        ([], "has no 'images'"),
        ({"images": IMAGES, "annotations": ANNOTATIONS[:1]}, r"1 images without an annotation \(train/bee/1.jpg\)"),
        ({"images": IMAGES, "annotations": [*ANNOTATIONS, {"image_id": 1, "category_id": 6}]}, "several categories"),
        ({"images": IMAGES, "annotations": [{"image_id": 1}]}, "lacks the key 'category_id'"),
        (
            {"images": IMAGES, "annotations": ANNOTATIONS, "categories": [{"id": 5}]},
            "1 categories that are not among the 1 listed: 6",
        ),
        (
            {
                "images": IMAGES,
                "annotations": ANNOTATIONS,
                "categories": [{"id": 5}, {"id": 6}, {"id": 7, "name": "cow"}],
            },
            r"1 of 3 classes have no train image: 2 \(cow\)",
        ),
    ],
)
def test_json_with_mistakes(root, content, pattern):
    (root / "train.json").write_text(json.dumps(content))
    (root / "val.json").write_text(json.dumps({"images": IMAGES, "annotations": ANNOTATIONS}))
    refuses(pattern, open_splits, root)


def test_json_that_is_none(root):
    (root / "train.json").write_text("{")
    refuses("expected COCO-style JSON", LongTailedDataset.from_coco, root / "train.json", root)
    refuses("does not exist", LongTailedDataset.from_coco, root / "x.json", root, error=FileNotFoundError)


def test_training_refuses_one_class(root):
    splits = open_splits(root)
    only = splits["train"]
    one = dataclasses.replace(only, labels=np.zeros_like(only.labels), class_names=only.class_names[:1])
    with pytest.raises(ValueError, match="are of one class"):
        check_classes(TrainConfig(), {"train": one, "val": one})


def test_training_names_classes_that_val_lacks_and_a_batch_above_the_data(root, caplog):
    splits = open_splits(root)
    check_classes(TrainConfig(batch_size=1), splits)
    assert not caplog.records
    val = splits["val"]
    lacking = dataclasses.replace(val, labels=np.zeros_like(val.labels))
    check_classes(TrainConfig(batch_size=1000), splits | {"val": lacking})
    names = ", ".join(val.class_names[1:6])
    assert f"val has no image of {val.num_classes - 1} of {val.num_classes} classes ({names}" in caplog.text
    assert f"--batch-size 1000 is more than the {len(splits['train'])} training images" in caplog.text
