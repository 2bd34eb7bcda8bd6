"""A run folder comes into being whole, and says in one line what is wrong with it."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastlt import Run, TrainConfig, reproduce, run
from fastlt.commands.train import train_config
from fastlt.run import is_run

CONFIG = TrainConfig(dataset="folder", data_root=Path("images"), backbone="resnet8")
DEAD = 2**22 + 1  # above the largest process number of Linux
KilledAt = Callable[[int, Callable[[], object]], bool]


class Split(SimpleNamespace):
    def __len__(self) -> int:
        return 3


TRAIN = Split(class_names=["ant", "caf\udce9"], class_counts=np.array([2, 1]), fingerprint="f", content="c", skipped=())
SPLITS: Any = {"train": TRAIN, "val": TRAIN}


def create(out: Path | None) -> Run:
    return Run.create(dataclasses.replace(CONFIG, out=out), SPLITS)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(path: Path) -> None:
    """Check that a folder is a whole run and nothing else."""
    found = Run.open(path)
    assert (found.config.backbone, found.config.out) == ("resnet8", path)
    assert found.data["class_names"] == TRAIN.class_names
    assert sorted(os.listdir(path)) == ["config.json", "data.json", "environment.json"]  # noqa: PTH208
    assert (run.RUNS / run.LAST).resolve() == path.resolve()
    assert [name for _, folders, files in os.walk(".") for name in folders + files if name.startswith(".")] == []


@pytest.mark.parametrize("prepared", [False, True])
def test_a_kill_while_a_run_is_made_leaves_what_the_same_command_goes_on_with(
    prepared: bool, killed_at: KilledAt
) -> None:
    for number in itertools.count():
        out = Path(f"out{number}")
        if prepared:
            out.mkdir()
        if not killed_at(number, lambda out=out: create(out)):  # type: ignore[misc]
            break
        if is_run(out):
            Run.open(out)
            with pytest.raises(ValueError, match=r"^--out: got .*--resume"):
                create(out)
            shutil.rmtree(out)
        else:
            with pytest.raises((ValueError, FileNotFoundError), match=f"^{out}: "):
                Run.open(out)
        create(out)
        check(out)
    assert number > 6
    check(out)


def test_a_kill_under_a_name_of_its_own_leaves_nothing_for_long(killed_at: KilledAt) -> None:
    number = next(number for number in itertools.count() if not killed_at(number, lambda: create(None)))
    assert number > 6
    path = create(None).path
    check(path)


LEFT = [
    ("config.json",),
    ("config.json", "environment.json"),
    ("environment.json",),
    ("environment.json", "data.json"),
    (".lock",),
    (f".config.json.{DEAD}.partial",),
    (".lock", "config.json", f".data.json.{DEAD}.partial"),
]


@pytest.mark.parametrize("left", LEFT)
def test_what_a_killed_creation_left_is_begun_anew_and_not_resumed(
    left: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = create(Path("whole")).path, Path("out")
    out.mkdir()
    for name in left:
        if (whole / name).exists():
            shutil.copy(whole / name, out)
        else:
            (out / name).write_text("half")
    with pytest.raises((ValueError, FileNotFoundError), match=r"^out: ") as caught:
        train_config(["--resume", "--out", "out"])
    assert ("interrupted" in str(caught.value)) == any(name in run.CREATED for name in left)
    asked: list[TrainConfig] = []
    monkeypatch.setattr(reproduce, "train", lambda config, console: asked.append(config))
    out.rename("instance_balanced-seed0")
    reproduce.trained_run(CONFIG, Path(), None)
    assert not asked[0].resume
    Path("instance_balanced-seed0").rename(out)
    create(out)
    check(out)


@pytest.mark.parametrize("name", ["config.json", "notes.txt", "checkpoints/last.safetensors"])
def test_what_somebody_else_wrote_is_kept(name: str) -> None:
    path = Path("out") / name
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=r"^--out: got out, which is not empty"):
        create(Path("out"))
    assert path.read_text() == '{"mine": 1}'


def statuses_of_four(function: Callable[[], int]) -> list[int]:
    """Call a function in four processes at once; return what it returned, sorted, 1 where it failed."""
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = function()
            finally:
                os._exit(status)
        children.append(child)
    return sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def test_runs_that_begin_at_the_same_second_get_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "stamp", lambda: "now")

    def begin() -> int:
        path = create(None).path
        return int(json.loads((path / "config.json").read_text())["out"] != str(path))

    assert statuses_of_four(begin) == [0] * 4
    names = sorted(path.name for path in (run.RUNS / "folder").iterdir())
    assert names == ["resnet8-now", "resnet8-now-2", "resnet8-now-3", "resnet8-now-4"]


def test_of_two_that_want_one_folder_one_gets_it() -> None:
    def begin(out: Path) -> int:
        try:
            create(out)
        except ValueError:
            return 2
        return 0

    Path("empty").mkdir()
    for out in (Path("absent"), Path("empty")):
        assert statuses_of_four(functools.partial(begin, out)) == [0, 2, 2, 2]
        check(out)


def test_a_run_has_one_owner_who_sweeps_it_first() -> None:
    made = create(Path("out"))
    partial = made.checkpoint("last").with_name(f".last.safetensors.{DEAD}.partial")
    partial.parent.mkdir()
    partial.write_text("half")
    beside = Path(f".out.{DEAD}.partial")
    beside.mkdir()
    with made.held():
        assert not partial.exists()
        assert not beside.exists()
        with pytest.raises(ValueError, match=r"^out: .*another process"), made.held():
            pass


def changed(name: str, **changes: object) -> None:
    path = Path("out") / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"class_counts": [2]}, "1 class_counts .* 2 class_names"),
        ({"class_counts": [2, -1]}, r"from -1 up"),
        ({"class_counts": [2, 1e99]}, r"\$\.class_counts\[1\]"),
        ({"class_counts": None}, r"\$\.class_counts"),
        ({"class_names": ["ant", 3]}, r"\$\.class_names\[1\]"),
        ({"class_names": {"ant": 1}}, r"\$\.class_names"),
        ({"splits": {}}, r"splits\.train"),
        ({"splits": {"train": {}}}, r"fingerprint"),
        ({"splits": ["train"]}, r"\$\.splits"),
        ({"class_counts": [10**30, 1]}, r"class_counts"),
    ],
)
def test_a_damaged_record_of_data_is_named(change: dict[str, object], named: str) -> None:
    create(Path("out"))
    changed("data.json", **change)
    with pytest.raises(ValueError, match=rf"^out/data\.json: got .*{named}"):
        _ = Run.open(Path("out")).data


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": "fast"}, r"\$\.lr"),
        ({"lr": None}, r"\$\.lr"),
        ({"lr": -1}, r"--lr: got -1"),
        ({"epochs": 1.5}, r"\$\.epochs"),
        ({"epochs": True}, r"\$\.epochs"),
        ({"backbone": ["resnet8"]}, r"\$\.backbone"),
        ({"crop_scale": [0.1]}, r"\$\.crop_scale"),
        ({"crop_scale": [0.1, {}]}, r"\$\.crop_scale\[1\]"),
        ({"data_root": 3}, r"\$\.data_root"),
        ({"train_only": "fc"}, r"\$\.train_only"),
        ({"seed": 10**30}, r"seed"),
        ({"sampling": "some"}, r"--sampling"),
    ],
)
def test_damaged_settings_are_named(change: dict[str, object], named: str) -> None:
    create(Path("out"))
    changed("config.json", **change)
    with pytest.raises(ValueError, match=rf"^out/config\.json: got .*{named}"):
        _ = Run.open(Path("out")).config


@pytest.mark.parametrize("content", ["", "[]", "3", "nul", '{"backbone": ' + "[" * 10**5, b"\xff\xfe", '{"lr": 1e999}'])
def test_what_is_no_record_is_named(content: str | bytes) -> None:
    made = create(Path("out"))
    for name, read in (("config.json", lambda: made.config), ("data.json", lambda: made.data)):
        (made.path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ValueError, match=rf"^out/{name}: got "):
            read()
