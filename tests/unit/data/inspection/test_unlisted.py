"""Images added after `fastlt data split` are not lost without a word."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from fastlt.data import open_splits, split_folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    add(folder, [f"{name}/{number}.png" for name in ("ant", "bée") for number in range(6)])
    (folder / "ant" / "broken.png").write_bytes(b"no image")
    split_folder(folder)
    return folder


def add(root: Path, paths: list[str]) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (4, 4), hashlib.sha256(path.encode()).digest()[:16]).save(root / path)


def warnings(root: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    open_splits(root)
    return caplog.messages


def test_they_are_counted_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(root, caplog) == []  # not even of the broken one, which the split named
    add(root, ["ant/new.png", "ant/deep/new.png", "cow/1.png"])
    (message,) = warnings(root, caplog)
    assert message.startswith(f"{root}/lists: 3 images in {root} are in no list")
    for path in ("ant/new.png", "ant/deep/new.png", "cow/1.png", f"fastlt data split {root}"):
        assert path in message


def test_lists_elsewhere_are_compared_too(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split_folder(root, tmp_path / "out")
    assert warnings(tmp_path / "out", caplog) == []
    add(root, ["ant/new.png"])
    assert len(warnings(tmp_path / "out", caplog)) == 1


def test_other_lists_may_leave_images_out(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(root, ["ant/new.png"])
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "root.txt").write_text(f"{root.parent}\n")
    for split, number in (("train", 1), ("val", 2)):
        lines = f"data/ant/{number}.png 0\ndata/bée/{number}.png 1\n"
        (lists / f"{split}.txt").write_text(lines, encoding="utf-8")
    assert warnings(lists, caplog) == []
    named = open_splits(root, train="train.txt", val="val.txt")  # whoever names lists chooses
    assert (len(named["val"]), caplog.messages) == (2, [])
