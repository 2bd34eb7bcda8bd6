"""A run goes on when its data are copied, touched or moved, and stops when they are other data."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fastlt import Run, cli, train
from fastlt.files import write_json

CPU = ("--device", "cpu")
Fastlt = Callable[..., str]


@pytest.fixture
def root(run_copy: Run, data_root: Path, tmp_path: Path) -> Path:
    """The run's own copy of its data, of which it has no features yet."""
    copy = Path(shutil.copytree(data_root, tmp_path / "set"))  # with the times of the original
    write_json(run_copy.path / "config.json", run_copy.config.to_json() | {"data_root": str(copy)})
    shutil.rmtree(run_copy.path / "features", ignore_errors=True)
    return copy


@pytest.fixture
def fastlt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fastlt:
    """Run a command in this process: its output, or its one line of refusal."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["fastlt", *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            cli.main()
        captured = capsys.readouterr()
        assert captured.err.count("\n") <= 1, captured.err
        return captured.err or captured.out

    return run


def touch(root: Path) -> None:
    for file in root.rglob("*.jpg"):
        os.utime(file, (1, 1))


def place(run: Run) -> Path | None:
    return Run.open(run.path).config.data_root


def test_touched_data_are_the_same(run_copy: Run, root: Path, fastlt: Fastlt) -> None:
    touch(root)
    assert "features of 60 val images" in fastlt("evaluate", run_copy.path, *CPU)
    assert "fastlt: " not in fastlt("train", "--resume", "--out", run_copy.path)


def test_the_remedy_for_moved_data_works_once_and_for_all(run_copy: Run, root: Path, fastlt: Fastlt) -> None:
    there = root.rename(root.with_name("there"))
    touch(there)
    refusal = fastlt("evaluate", run_copy.path, *CPU)
    assert refusal.startswith(f"fastlt: {run_copy.path}: got no {root}, ")
    assert "--data-root DIR" in refusal
    fastlt("evaluate", run_copy.path, *CPU, "--data-root", there.name)  # from the working folder
    assert place(run_copy) == there
    shutil.rmtree(run_copy.path / "features")
    assert "checkpoint: " in fastlt("rebalance", run_copy.path, *CPU, "--tau", "0.5")


@pytest.mark.parametrize(
    "command",
    [
        "train --resume --out run",
        "rebalance run --tau 0.5 --device cpu",
        "predict run image.jpg --device cpu",
        "export run",
        "report run --device cpu",
    ],
)
def test_every_command_on_a_run_takes_the_new_place(command: str, run_copy: Run, root: Path, fastlt: Fastlt) -> None:
    there = root.rename(root.with_name("there"))
    touch(there)
    shutil.copyfile(next((there / "val").rglob("*.jpg")), "image.jpg")
    before = (run_copy.path / "config.json").read_text()
    for split in ("train", "val"):
        (there / split).rename(there / f"{split} away")
    assert f"--data-root: got {there}" in fastlt(*command.split(), "--data-root", there)
    assert (run_copy.path / "config.json").read_text() == before
    for split in ("train", "val"):
        (there / f"{split} away").rename(there / split)
    assert "fastlt: " not in fastlt(*command.split(), "--data-root", there)
    assert place(run_copy) == there


def test_other_data_are_refused_and_not_remembered(run_copy: Run, root: Path, fastlt: Fastlt) -> None:
    there = Path(shutil.copytree(root, root.with_name("there")))
    victim = next((there / "val").rglob("*.jpg"))
    Image.effect_noise((32, 32), 50).save(victim)
    refusal = fastlt("evaluate", run_copy.path, *CPU, "--data-root", there)
    assert refusal.startswith(f"fastlt: {run_copy.path}: got other val data at {there}")
    assert place(run_copy) == root


def test_lists_move_along_with_the_data(run_copy: Run, root: Path, fastlt: Fastlt) -> None:
    (root / "splits").mkdir()
    for split in ("train", "val", "test"):
        classes = sorted(path.name for path in (root / split).iterdir())
        files = sorted((root / split).glob("*/*"), key=lambda file: file.relative_to(root).as_posix())
        lines = (f"{file.relative_to(root)} {classes.index(file.parent.name)}\n" for file in files)
        (root / "splits" / f"{split}.txt").write_text("".join(lines))
    fastlt("evaluate", run_copy.path, *CPU, "--lists", root / "splits")
    there = root.rename(root.with_name("there"))
    fastlt("evaluate", run_copy.path, *CPU, "--data-root", there)
    assert (place(run_copy), Run.open(run_copy.path).config.lists) == (there, there / "splits")


def test_a_record_of_an_earlier_version_asks_for_confirmation(
    run_copy: Run, root: Path, fastlt: Fastlt, caplog: pytest.LogCaptureFixture
) -> None:
    fastlt("evaluate", run_copy.path, *CPU)
    features = run_copy.path / "features" / "val.features.npy"
    before = features.stat().st_mtime_ns
    record = json.loads((run_copy.path / "data.json").read_text())
    for split in record["splits"].values():
        del split["content"]
    write_json(run_copy.path / "data.json", record)
    fastlt("rebalance", run_copy.path, *CPU, "--method", "ncm")  # nothing has changed yet
    (run_copy.path / "features" / "train.features.npy").unlink()
    touch(root)
    refusal = fastlt("rebalance", run_copy.path, *CPU, "--method", "ncm")
    assert "that were copied, moved or touched" in refusal
    remedy = refusal.partition("with ")[2].rpartition("with ")[2]
    fastlt("rebalance", run_copy.path, *CPU, "--method", "ncm", *shlex.split(remedy))
    assert any("cannot tell" in message for message in caplog.messages)
    assert features.stat().st_mtime_ns == before
    touch(root.rename(root.with_name("there")))
    fastlt("rebalance", run_copy.path, *CPU, "--method", "ncm", "--data-root", "there")
    assert place(run_copy) == root.with_name("there")


def test_a_run_resumed_in_python_takes_the_new_place(run_copy: Run, root: Path) -> None:
    there = root.rename(root.with_name("there"))
    touch(there)
    train(dataclasses.replace(run_copy.config, out=run_copy.path, resume=True, data_root=there))
    assert place(run_copy) == there


def test_an_adopted_checkpoint_keeps_its_features_when_its_data_move(run_copy: Run, root: Path, fastlt: Fastlt) -> None:
    fastlt("export", run_copy.path, "--out", "net.pth")
    flags = ("--image-size", "32", "--eval-resize", "32", "--tau", "0.5", "--force", *CPU)
    fastlt("rebalance", "net.pth", *flags, "--data-root", root, "--out", "a.pth")
    (made,) = Path("runs/adopted").glob("net-*")
    before = (made / "features" / "val.features.npy").stat().st_mtime_ns
    there = root.rename(root.with_name("there"))
    touch(there)
    fastlt("rebalance", "net.pth", *flags, "--data-root", there, "--out", "b.pth")
    assert [*Path("runs/adopted").glob("net-*")] == [made]
    assert (made / "features" / "val.features.npy").stat().st_mtime_ns == before
    assert Run.open(made).config.data_root == there


def test_figures_of_data_that_have_changed_since_say_so(run_copy: Run, root: Path, fastlt: Fastlt) -> None:
    first = fastlt("evaluate", run_copy.path, *CPU)
    assert "have changed" not in fastlt("evaluate", run_copy.path, *CPU)
    next(iter(sorted((root / "val").rglob("*.jpg")))).unlink()
    changed = fastlt("evaluate", run_copy.path, *CPU)
    assert "its val data have changed (59 images instead of 60)" in changed
    assert "test data have changed" not in changed
    assert [line for line in first.splitlines() if line.startswith("val")] == [
        line for line in changed.splitlines() if line.startswith("val")
    ]
    root.rename(root.with_name("away"))  # where they cannot be looked at
    assert "have changed" not in fastlt("evaluate", run_copy.path, *CPU)
