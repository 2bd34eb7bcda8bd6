"""Every mistake in a data set gives one line: what is at fault, what was got, what to do."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from fastlt.config import TrainConfig
from fastlt.data import LongTailedDataset, open_splits
from fastlt.data.sampler_arguments import as_labels
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
    Image.frombytes("L", (4, 4), hashlib.sha256(str(file).encode()).digest()[:16]).save(file)


def refuses(pattern, action, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=pattern) as caught:
        action(*args, **kwargs)
    assert "\n" not in str(caught.value)


def remove(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_absent_root(tmp_path):
    refuses(r"^--data-root: got \S+/none\b", open_splits, tmp_path / "none", error=FileNotFoundError)


def test_root_is_a_file(root):
    refuses(r"^--data-root: got \S+/1\.jpg\b", open_splits, root / "train" / "ant" / "1.jpg")


def test_class_folders_only(root):
    (root / "train").rename(root.parent / "animals")
    refuses(r"^--data-root: got \S+/animals\b.*\(ant, bee\).*`fastlt data split", open_splits, root.parent / "animals")


@pytest.mark.parametrize("inner", ["train", "val"])
def test_a_split_given_as_root(root, inner):
    refuses(f"^--data-root: got {root / inner}, .*give its parent {root}$", open_splits, root / inner)


def test_one_level_too_high(root):
    refuses(f"^--data-root: got {root.parent}, .*; give {root}$", open_splits, root.parent)


def test_images_without_class_folders(tmp_path):
    save(tmp_path / "data" / "1.jpg")
    refuses(r"^--data-root: got \S+/data\b.* a folder a class$", open_splits, tmp_path / "data")


def test_nothing_there(tmp_path):
    refuses(
        f"^--data-root: got {tmp_path}, .*train.txt or train.*json or train.csv or train/<class>/<image>",
        open_splits,
        tmp_path,
    )


def test_images_directly_in_train(root):
    for name in ("ant", "bee"):
        remove(root / "train" / name)
    save(root / "train" / "1.jpg")
    refuses(r"/train: got 1 images\b.*/train/<class>/<image>", open_splits, root, error=FileNotFoundError)


def test_nothing_in_train(root):
    for name in ("ant", "bee"):
        remove(root / "train" / name)
    refuses(r"/train: got an empty folder.*/train/<class>/<image>", open_splits, root, error=FileNotFoundError)


def test_classes_one_level_too_deep(root):
    (root / "train").rename(root / "images")
    (root / "train").mkdir()
    (root / "images").rename(root / "train" / "images")
    refuses(r"/train: got one class folder, images, .*\(ant, bee\).*one level up", open_splits, root)


def test_no_val(root):
    for name in ("ant", "bee"):
        remove(root / "val" / name)
    (root / "val").rmdir()
    refuses(r"/data: got .*\(train/\).*`fastlt data split \S+/train`", open_splits, root)


def test_empty_val(root):
    for name in ("ant", "bee"):
        (root / "val" / name / "1.jpg").unlink()
    refuses("/val: got an empty val split", open_splits, root)


def test_val_without_class_folders(root):
    for name in ("ant", "bee"):
        remove(root / "val" / name)
    refuses("/val: got an empty val split", open_splits, root)


def test_a_class_without_a_train_image(root):
    (root / "train" / "bee" / "1.jpg").unlink()
    refuses(r"/train: got .* 1 of 2 classes, 1 \(bee\)", open_splits, root)


def test_a_class_whose_only_image_is_broken(root, caplog):
    (root / "train" / "bee" / "1.jpg").write_bytes(b"")
    refuses(r"/train: got .* 1 of 2 classes, 1 \(bee\)", open_splits, root)
    assert "empty file" in next((root.parent / "cache" / "index").glob("*.skipped.txt")).read_text()


def test_a_class_of_files_with_other_suffixes(root):
    (root / "train" / "bee" / "1.jpg").unlink()
    (root / "train" / "bee" / "1.dat").write_bytes(b"numbers")
    refuses(r"/bee: got no image but 1 suffix \.dat \(1\.dat\);", open_splits, root)


def test_no_file_is_an_image(root):
    for name in ("ant", "bee"):
        (root / "val" / name / "1.jpg").write_bytes(b"?")
    refuses("/val: got 2 files, .*: ant/1.jpg", open_splits, root)


def test_a_val_class_that_train_lacks(root):
    save(root / "val" / "cow" / "1.jpg")
    refuses("/val: got 1 classes .*, cow;", open_splits, root)


def test_class_names_of_another_number(root):
    (root / "classes.txt").write_text("one\ntwo\nthree\n")
    refuses("/train: got 2 class folders but 3 class names.*classes.txt", open_splits, root)


def lists(root, train, val="val/ant/1.jpg 0\n"):
    (root / "train.txt").write_text(train)
    (root / "val.txt").write_text(val)
    return root


GOOD = "train/ant/1.jpg 0\ntrain/bee/1.jpg 1\n"


@pytest.mark.parametrize(
    ("train", "pattern"),
    [
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg\n", r"/train\.txt, line 2: got 'train/bee/1\.jpg'; expected `path label`"),
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg one\n", r"line 2: got .* integer label"),
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg 1.5\n", r"line 2"),
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg 0_1\n", r"line 2"),
        (f"train/ant/1.jpg {10**30}\n", r"line 1"),
        ("train/ant/1.jpg -1\ntrain/bee/1.jpg 0\n", r"/train\.txt: got label -1; expected 0"),
        ("train/ant/1.jpg 1\ntrain/bee/1.jpg 2\n", r"/train\.txt: got .* 1 of 3 classes, 0; .*contiguous from 0"),
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg 2\n", r"/train\.txt: got .* 1 of 3 classes, 1; .*contiguous"),
        ("train/ant/1.jpg 0\ntrain/bee/1.jpg 2000000000\n", r"/train\.txt, line 2: got label 2000000000 "),
        ("train/ant/1.jpg 0\n\ntrain/b\0e/1.jpg 1\n", r"/train\.txt, line 3: got 'train/b\\x00e/1\.jpg 1'"),
        ("train/ant/1.jpg 0\n" + "x" * 100_000 + " 1\n", r"/train\.txt, line 2: got 'xxx"),
        ("\0" * 100_000, r"/train\.txt, line 1: got '\\x00"),
        (f"train/ant/1.jpg {'9' * 5000}\n", r"/train\.txt, line 1: got"),
        ("train/ant/1.jpg 1e999\n", r"/train\.txt, line 1: got"),
        (f"\n\ntrain/ant/1.jpg {2**31 - 1}\n", rf"/train\.txt, line 3: got label {2**31 - 1} in a list of 1 images"),
        ("", r"/train\.txt: got an empty train split"),
    ],
)
def test_lists_with_bad_labels(root, train, pattern):
    refuses(pattern, open_splits, lists(root, train))


def test_a_val_label_out_of_range(root):
    refuses(
        r"/val\.txt: got label 2 \(val/bee/1\.jpg\); expected 0 \.\. 1, the 2 classes of train",
        open_splits,
        lists(root, GOOD, "val/ant/1.jpg 0\nval/bee/1.jpg 2\n"),
    )


def test_a_list_longer_than_its_class_names(root):
    (root / "classes.txt").write_text("only\n")
    refuses(r"got label 1 .*classes named in classes.txt", open_splits, lists(root, GOOD))


def test_an_empty_val_list(root):
    refuses(r"/val\.txt: got an empty val split", open_splits, lists(root, GOOD, "\n"))


def test_a_list_that_names_absent_files(root):
    gone = "".join(f"train/gone/{number}.jpg 0\n" for number in range(9))
    refuses(
        r"/train\.txt: got 9 of 11 files .*train/gone/0\.jpg.* 4 more",
        open_splits,
        lists(root, GOOD + gone),
        error=FileNotFoundError,
    )


def test_absent_lists(root, tmp_path):
    refuses(
        r"^other\.txt: .*; looked for other\.txt, \S+/other\.txt",
        open_splits,
        root,
        train="other.txt",
        error=FileNotFoundError,
    )
    refuses(f"^--lists: got {tmp_path}, .*train.txt", open_splits, root, lists=tmp_path, error=FileNotFoundError)
    refuses(r"/x\.txt: .*`path label`", LongTailedDataset.from_list, root / "x.txt", root, error=FileNotFoundError)
    refuses(r"/no: .*/train\.txt", LongTailedDataset.from_list, lists(root, GOOD) / "train.txt", root / "no",
            error=FileNotFoundError)  # fmt: skip


def test_a_missing_val_list_is_looked_for_beside_that_of_train(root, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.txt").write_text(GOOD)
    refuses(r"/mine: got train\.txt .*; expected val\.txt", open_splits, root, lists=tmp_path / "mine")
    refuses("/train.txt: got .*; name both", open_splits, root, train=str(tmp_path / "mine" / "train.txt"))
    refuses("^--lists: got no,", open_splits, root, lists="no", error=FileNotFoundError)


def test_several_lists_of_a_split(root):
    for name in ("a_train.txt", "b_train.txt"):
        (root / name).write_text(GOOD)
    refuses(r"/data: got several .*, a_train\.txt, b_train\.txt;", open_splits, root)


def test_several_files_of_a_split(root):
    for name in ("train_a.json", "train_b.json", "val.json"):
        (root / name).write_text("{}")
    refuses(r"/data: got several .*, train_a\.json, train_b\.json;", open_splits, root)


IMAGES = [{"id": 1, "file_name": "train/ant/1.jpg"}, {"id": 2, "file_name": "train/bee/1.jpg"}]
ANNOTATIONS = [{"image_id": 1, "category_id": 5}, {"image_id": 2, "category_id": 6}]
CATEGORIES = [{"id": 5, "name": "ant"}, {"id": 6, "name": "bee"}]


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ({"images": IMAGES}, r"/train\.json: got .*`annotations`"),
        ({"images": IMAGES, "annotations": []}, r"/train\.json: got no 'annotations'"),
        ({"annotations": ANNOTATIONS}, r"/train\.json: got .*`images`"),
        ([], r"/train\.json: got .*`array`"),
        ({"images": IMAGES, "annotations": ANNOTATIONS[:1]}, r": got 1 images .*\(train/bee/1\.jpg\)"),
        (
            {"images": IMAGES, "annotations": [*ANNOTATIONS, {"image_id": 1, "category_id": 6}]},
            "image 1 .5, 6",
        ),
        (
            {"images": IMAGES, "annotations": [{"image_id": 1}]},
            r"/train\.json: got .*`category_id` - at `\$\.annotations\[0\]`",
        ),
        (
            {"images": IMAGES, "annotations": ANNOTATIONS, "categories": [{"id": 5}]},
            ": got 1 categories .* 1 listed, 6;",
        ),
        (
            {"images": IMAGES, "annotations": ANNOTATIONS, "categories": [*CATEGORIES, {"id": 5, "name": "cow"}]},
            r": got two names of category 5 \(ant, cow\)",
        ),
        ({"images": IMAGES, "annotations": [ANNOTATIONS[0], {"image_id": 2, "category_id": 6.5}]}, "category_id 6.5"),
    ],
)
def test_json_with_mistakes(root, content, pattern):
    (root / "train.json").write_text(json.dumps(content))
    (root / "val.json").write_text(json.dumps({"images": IMAGES, "annotations": ANNOTATIONS}))
    refuses(pattern, open_splits, root)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('{"images": [{"id": 1, "file_name": "a\\u0000b"}], "annotations": [{"image_id": 1, "category_id": 1}]}',
         r"/x\.json: got the file name 'a\\x00b' \(images\[0\]\)"),
        ('{"images": [{"id": 1, "file_name": "a\\ud800"}], "annotations": [{"image_id": 1, "category_id": 1}]}',
         r"/x\.json: got the file name 'a\\ud800' \(images\[0\]\)"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "category_id": 1e999}]}',
         r"/x\.json: got .*`\$\.annotations\[0\]\.category_id`"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "category_id": Infinity}]}',
         r"/x\.json: got .*infinity"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "category_id": NaN}]}',
         r"/x\.json: got .*NaN"),
        ('{"images": [{"id": 1, "file_name": 2}], "annotations": []}',
         r"/x\.json: got .*`\$\.images\[0\]\.file_name`"),
        ('{"images": ' + "[" * 100_000, r"/x\.json: got"),
        ('{"images": 3, "annotations": {}}', r"/x\.json: got .*`\$\.images`"),
    ],
)  # fmt: skip
def test_json_of_another_form(root, text, pattern):
    (root / "x.json").write_text(text)
    refuses(pattern, LongTailedDataset.from_coco, root / "x.json", root)


def test_json_may_have_strings_for_ids_and_more_keys_than_needed(root):
    images = [image | {"id": str(image["id"]), "width": float("nan")} for image in IMAGES]
    annotations = [{key: str(value) for key, value in entry.items()} for entry in ANNOTATIONS]
    (root / "x.json").write_text(json.dumps({"images": images, "annotations": annotations, "info": None}))
    assert LongTailedDataset.from_coco(root / "x.json", root).class_names == ("5", "6")


def test_pipes_are_not_waited_for(root):
    os.mkfifo(root / "pipe")
    for read in (LongTailedDataset.from_list, LongTailedDataset.from_coco):
        refuses("/pipe: got a pipe", read, root / "pipe", root)
    refuses("/pipe: got a pipe", as_labels, root / "pipe")
    dataset = open_splits(root)["train"]
    (root / "train" / "ant" / "1.jpg").unlink()
    os.mkfifo(root / "train" / "ant" / "1.jpg")
    refuses(r"/1\.jpg: got a pipe", dataset.read, 0)


def test_labels_in_a_file_that_is_damaged(tmp_path):
    np.save(tmp_path / "y.npy", np.arange(4))
    content = (tmp_path / "y.npy").read_bytes()
    for damaged in (b"", content[:50], content[:-8], content.replace(b"(4,)", b"(9**"), b"\x80\x04."):
        (tmp_path / "y.npy").write_bytes(damaged)
        refuses(r"/y\.npy: got", as_labels, tmp_path / "y.npy")


@pytest.mark.parametrize("text", ["", "no\0folder", "absent", "x" * 300, "two\nlines", "\udcff"])
def test_root_txt_that_names_no_folder(root, text):
    lists(root, GOOD)
    (root / "root.txt").write_text(text or "train.txt", errors="surrogateescape")
    refuses(r"/root\.txt: got ", open_splits, root)


def test_root_txt_and_classes_txt_that_are_no_text(root):
    lists(root, GOOD)
    (root / "classes.txt").write_bytes(b"ant\nb\0ee\n")
    refuses(r"/classes\.txt, line 2: got", open_splits, root)
    (root / "root.txt").write_bytes(b"x" * 100_000)
    refuses(r"/root\.txt: got", open_splits, root)


def test_class_names_are_divided_by_lines_only(root):
    names = "one\x85half\r\ntwo\x0b\u2028\n"
    (root / "classes.txt").write_text(names, newline="")
    assert open_splits(root)["train"].class_names == ("one\x85half", "two\x0b\u2028")


def test_json_that_is_none(root):
    (root / "train.json").write_text("{")
    refuses("give COCO-style JSON", LongTailedDataset.from_coco, root / "train.json", root)
    refuses(r"/x\.json: ", LongTailedDataset.from_coco, root / "x.json", root, error=FileNotFoundError)


def test_training_refuses_one_class(root):
    splits = open_splits(root)
    only = splits["train"]
    one = dataclasses.replace(only, labels=np.zeros_like(only.labels), class_names=only.class_names[:1])
    with pytest.raises(ValueError, match=r"/train: got .*\(ant\)"):
        check_classes(TrainConfig(), {"train": one, "val": one})


def test_training_names_classes_that_val_lacks_and_a_batch_above_the_data(root, caplog):
    splits = open_splits(root)
    check_classes(TrainConfig(batch_size=1), splits)
    assert not caplog.records
    val = splits["val"]
    lacking = dataclasses.replace(val, labels=np.zeros_like(val.labels))
    check_classes(TrainConfig(batch_size=1000), splits | {"val": lacking})
    names = ", ".join(val.class_names[1:6])
    assert f"val has no images of {val.num_classes - 1} of {val.num_classes} classes ({names}" in caplog.text
    assert f"--batch-size 1000 is more than the {len(splits['train'])} training images" in caplog.text
