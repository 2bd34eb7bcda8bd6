import os
import shutil

import pytest
from PIL import Image

from fastlt.data import open_splits, split_folder
from fastlt.files import owned

GOLDEN_VAL = [
    *(f"ant/ant {number}.png 0" for number in (25, 27, 36, 55)),
    *(f"bee/bee {number}.png 1" for number in (16, 18, 22, 24)),
    "cow/cow 4.png 2",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


def write(root, counts):
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("L", (4, 4), number % 256).save(folder / f"{name} {number}.png")
    return root


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "data", {"ant": 60, "bee": 25, "cow": 5})


def lists(folder):
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_it_is_stratified_and_balanced_and_the_tail_stays_in_train(root):
    summary = split_folder(root, val_per_class=4, test_per_class=8)
    assert summary.num_images == {"train": 64, "val": 9, "test": 17}
    assert (summary.num_classes, summary.num_reduced, summary.num_skipped) == (3, 1, 0)
    splits = open_splits(root)
    assert splits["train"].class_names == ("ant", "bee", "cow")
    assert splits["train"].class_counts.tolist() == [48, 13, 3]
    assert splits["val"].class_counts.tolist() == [4, 4, 1]
    assert splits["test"].class_counts.tolist() == [8, 8, 1]


def test_the_lists_of_a_seed_are_a_promise(root):
    split_folder(root, val_per_class=4, test_per_class=8, seed=3)
    found = lists(root / "lists")
    assert set(found) == {"train.txt", "val.txt", "test.txt", "classes.txt"}  # no root.txt where it is not needed
    assert found["classes.txt"] == "ant\nbee\ncow\n"
    assert found["val.txt"].splitlines() == GOLDEN_VAL
    for split in ("train", "val", "test"):
        lines = [line.rpartition(" ") for line in found[f"{split}.txt"].splitlines()]
        assert lines == sorted(lines, key=lambda line: (int(line[2]), line[0]))


@pytest.mark.parametrize(("count", "taken"), [(3, 1), (4, 1), (7, 2), (18, 6), (29, 9)])
def test_without_a_test_split_val_takes_at_most_a_third(tmp_path, count, taken):
    folder = write(tmp_path / "few", {"ant": 90, "bee": count})
    split_folder(folder, val_per_class=20, test_per_class=0)
    splits = open_splits(folder)
    assert splits["val"].class_counts.tolist() == [20, taken]
    assert splits["train"].class_counts.tolist() == [70, count - taken]


def test_a_class_of_four_gives_one_image_each_and_one_of_three_is_told_how(tmp_path, caplog):
    folder = write(tmp_path / "few", {"ant": 9, "bee": 4})
    split_folder(folder)
    splits = open_splits(folder)
    assert [splits[name].class_counts[1] for name in ("train", "val", "test")] == [2, 1, 1]
    write(folder, {"cow": 3})
    split_folder(folder, tmp_path / "whole")
    assert "--test-per-class 0 takes classes of 3" in caplog.text
    split_folder(folder, tmp_path / "lists", test_per_class=0)
    assert open_splits(tmp_path / "lists")["val"].class_counts.tolist() == [3, 1, 1]


def test_every_image_is_in_one_list_and_none_is_moved(root):
    before = sorted(file.relative_to(root).as_posix() for file in root.rglob("*.png"))
    split_folder(root, val_per_class=4, test_per_class=8)
    listed = [path for split in open_splits(root).values() for path in split.paths]
    assert sorted(listed) == before == sorted(file.relative_to(root).as_posix() for file in root.rglob("*.png"))


def test_the_seed_decides(root, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        split_folder(root, tmp_path / name, val_per_class=4, test_per_class=8, seed=seed)
    assert lists(tmp_path / "a") == lists(tmp_path / "b")
    assert lists(tmp_path / "a")["val.txt"] != lists(tmp_path / "c")["val.txt"]


def test_a_class_more_changes_no_other_class(root, tmp_path):
    split_folder(root, tmp_path / "before", val_per_class=4, test_per_class=8)
    write(root, {"aardvark": 30})
    split_folder(root, tmp_path / "after", val_per_class=4, test_per_class=8)

    def images(name):
        lines = lists(tmp_path / name)["val.txt"].splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("aardvark")}

    assert images("before") == images("after")


def test_lists_elsewhere_find_their_images(root, tmp_path):
    split_folder(root, tmp_path / "out", val_per_class=2, test_per_class=0)
    splits = open_splits(tmp_path / "out")
    assert list(splits) == ["train", "val"]
    assert splits["val"].path(0).is_file()


def test_repeating_is_fine_but_other_lists_are_kept(root):
    split_folder(root, val_per_class=2, test_per_class=2)
    split_folder(root, val_per_class=2, test_per_class=2)
    before = lists(root / "lists")
    with pytest.raises(ValueError, match=rf"^--out: got {root}/lists\b.*train\.txt\b"):
        split_folder(root, val_per_class=2, test_per_class=2, seed=5)
    assert lists(root / "lists") == before


def test_a_split_killed_at_any_point_goes_on_and_its_half_is_no_data_set(root, tmp_path, killed_at):
    options = {"val_per_class": 2, "test_per_class": 2}
    whole = lists(split_folder(root, tmp_path / "whole", **options).out)
    for number in range(1000):
        out = tmp_path / f"out{number}"
        if not killed_at(number, lambda out=out: split_folder(root, out, **options)):
            break
        if (out / "train.txt").exists():
            assert list(open_splits(out)) == ["train", "val", "test"]
        else:
            with pytest.raises((ValueError, FileNotFoundError), match=f"^--data-root: got {out}"):
                open_splits(out)
        split_folder(root, out, **options)
        assert lists(out) == whole, number
    assert number > 8


def test_what_a_killed_split_leaves_is_no_class(root, tmp_path, killed_at):
    options = {"val_per_class": 2, "test_per_class": 2}
    for number in range(1000):
        if not killed_at(number, lambda: split_folder(root, **options)):
            break
        assert split_folder(root, tmp_path / f"out{number}", **options).num_classes == 3
        if (root / "lists").exists():
            shutil.rmtree(root / "lists")
    assert number > 8


def test_no_list_of_another_split_stays_beside(root):
    (root / "lists").mkdir()
    (root / "lists" / "test.txt").write_text("ant/ant 1.png 0\n")
    with pytest.raises(ValueError, match=rf"^--out: got {root}/lists\b.*test\.txt\b"):
        split_folder(root, val_per_class=2, test_per_class=0)


def test_two_splits_into_one_folder_do_not_mix(root):
    with owned(root / "lists"), pytest.raises(ValueError, match=f"^{root}/lists: .*process"):
        split_folder(root, val_per_class=2, test_per_class=2)


def test_a_pipe_in_the_place_of_a_list_is_not_opened(root):
    (root / "lists").mkdir()
    os.mkfifo(root / "lists" / "val.txt")
    with pytest.raises(ValueError, match=rf"^{root}/lists/val\.txt: got a pipe"):
        split_folder(root, val_per_class=2, test_per_class=2)


def test_earlier_lists_are_no_class(root, tmp_path):
    before = split_folder(root, val_per_class=2, test_per_class=2)
    again = split_folder(root, tmp_path / "elsewhere", val_per_class=2, test_per_class=2)
    assert again.num_classes == before.num_classes
    assert lists(again.out)["train.txt"] == lists(before.out)["train.txt"]


def test_broken_images_are_in_no_list_and_are_named(root, caplog):
    (root / "ant" / "ant 0.png").write_bytes(b"")
    assert split_folder(root, val_per_class=2, test_per_class=2).num_skipped == 1
    assert "ant 0.png" not in "".join(lists(root / "lists").values())
    assert "files that are not complete images are left out: ant/ant 0.png (empty file)" in caplog.text


def test_reduced_classes_keep_most_images_in_train(tmp_path):
    counts = {f"c{count:02d}": count for count in range(5, 40)}
    split_folder(write(tmp_path / "data", counts), val_per_class=6, test_per_class=9)
    splits = open_splits(tmp_path / "data")
    for label, count in enumerate(counts.values()):
        train, val, test = (splits[split].class_counts[label] for split in ("train", "val", "test"))
        assert train + val + test == count
        assert train > count / 2
        assert 1 <= val <= 6
        assert 1 <= test <= 9
        assert (val, test) == (6, 9) or train - (val + test) <= 2


def test_classes_that_are_too_small_are_named(root):
    for folder in root.iterdir():
        shutil.rmtree(folder)
    write(root, {"dog": 3, "elk": 2})
    with pytest.raises(ValueError, match=rf"^{root}: .*dog \(3\), elk \(2\).*\b4\b"):
        split_folder(root)
    assert not (root / "lists").exists()


@pytest.mark.parametrize("test_per_class", [9, 0])
def test_the_smallest_classes_stay_in_train(root, test_per_class, caplog):
    write(root, {"dog": 3, "elk": 2, "fox": 1})
    split_folder(root, test_per_class=test_per_class)
    splits = open_splits(root)
    names = splits["train"].class_names
    counts = {split: dict(zip(names, data.class_counts.tolist(), strict=True)) for split, data in splits.items()}
    assert [counts["train"][name] for name in ("elk", "fox")] == [2, 1]
    assert [counts["val"][name] for name in ("dog", "elk", "fox")] == [int(not test_per_class), 0, 0]
    assert counts["train"]["dog"] + counts["val"]["dog"] == 3
    assert ("elk (2)" in caplog.text, "dog (3)" in caplog.text) == (True, bool(test_per_class))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda root: (root / "train").mkdir(), r"\btrain folder"),
        (lambda root: [file.unlink() for file in (root / "cow").iterdir()], r"\b1 of 3 classes.*cow\b"),
    ],
)
def test_folders_that_cannot_be_split(root, change, pattern):
    change(root)
    with pytest.raises(ValueError, match=f"^{root}.*{pattern}"):
        split_folder(root, val_per_class=1, test_per_class=1)


def test_arguments_out_of_range(root, tmp_path):
    with pytest.raises(ValueError, match=r"^--val-per-class: got 0;"):
        split_folder(root, val_per_class=0)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/none\b.*folder"):
        split_folder(tmp_path / "none")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=rf"{tmp_path}/bare\b.*<class>/<image>"):
        split_folder(tmp_path / "bare")


@pytest.mark.parametrize("name", ["c\nd/0.png", " c/0.png", "c/0.png ", "c/x\\0.png", "c/x\r0.png"])
def test_paths_that_a_list_cannot_hold_are_refused(tmp_path, name):
    place = write(tmp_path / "data", {"c": 5, "d": 5}) / name
    place.parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "data/d/d 0.png", place)
    for number in range(1, 5):
        shutil.copy(place, place.with_name(f"{number}.png"))
    with pytest.raises(ValueError, match="whose paths no list can hold") as error:
        split_folder(tmp_path / "data")
    assert repr(name) in str(error.value)
    assert not (tmp_path / "data/lists").exists()
