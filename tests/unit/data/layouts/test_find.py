"""A new layout is one object and one row of the table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.data import open_splits
from fastlt.data.layouts import find
from fastlt.data.layouts.layout import file_layout
from fastlt.data.layouts.listing import Listing


def read_rows(source: Path, root: Path, train: Listing | None) -> Listing:
    with source.open() as stream:
        rows = list(csv.reader(stream))
    names = train.class_names if train else tuple(sorted({name for _, name in rows}))
    labels = np.array([names.index(name) for _, name in rows], np.int64)
    return Listing(root=root, paths=tuple(path for path, _ in rows), labels=labels, class_names=names, source=source)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    layout = file_layout("train.table", file="{split}.table", pattern="{split}-*.table", folders=("",), read=read_rows)
    monkeypatch.setattr(find, "LAYOUTS", (*find.LAYOUTS, layout))
    for name in ("ant", "bee"):
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "train.table").write_text("ant.png,ant\nbee.png,bee\nant.png,ant\n")
    return tmp_path


def test_a_layout_of_ones_own(root: Path) -> None:
    (root / "val-2026.table").write_text("bee.png,bee\n")
    splits = open_splits(root, cache=False)
    assert splits["train"].class_counts.tolist() == [2, 1]
    assert (splits["val"].class_names, splits["val"].labels.tolist()) == (("ant", "bee"), [1])
    assert len(open_splits(root, train="train.table", val="val-2026.table", cache=False)["train"]) == 3


def test_its_errors_name_its_files(root: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{root}: got train\.table\b.*\bval\.table\b"):
        open_splits(root, cache=False)
    (root / "train.table").unlink()
    with pytest.raises(ValueError, match=rf"^--data-root: got {root}, .*\btrain\.table"):
        open_splits(root, cache=False)


def test_other_files_named_like_a_split_do_not_hide_class_folders(root: Path) -> None:
    for name in ("train/ant/1.png", "train/bee/1.png", "val/ant/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / name)
    for name in ("val_notes.json", "val_scores.json"):
        (root / name).write_text("{}")
    (root / "train.table").unlink()
    assert open_splits(root, cache=False)["train"].class_names == ("ant", "bee")


def test_only_lists_start_from_the_folder_of_root_txt(root: Path) -> None:
    (root / "root.txt").write_text("elsewhere\n")
    for name in ("train.json", "val.json"):
        images = [{"id": 1, "file_name": "ant.png"}]
        (root / name).write_text(json.dumps({"images": images, "annotations": [{"image_id": 1, "category_id": 7}]}))
    assert len(open_splits(root, cache=False)["val"]) == 1
