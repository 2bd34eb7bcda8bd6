"""The command line as a user meets it: what it prints, and what it writes."""

import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from fastlt import cli
from fastlt.checkpoints.native import load
from fastlt.commands import common

Outcome = tuple[int, str, str]


def train_arguments(data_root: Path, *more: object) -> list[object]:
    flags = "--backbone resnet8 --epochs 2 --batch-size 32 --lr 0.1 --image-size 32 --device cpu --num-threads 1"
    return ["train", "--dataset", "folder", "--data-root", data_root, *flags.split(), *more]


EVERY_HELP = """
import contextlib, sys
from fastlt import cli
for command in ("", *cli.COMMANDS):
    with contextlib.suppress(SystemExit):
        cli.dispatch([*command.split(), "--help"])
    assert "torch" not in sys.modules, command
"""


def test_help_is_fast_and_free_of_torch() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in cli.COMMANDS:
        assert f"fastlt {command}" in done.stdout
        assert command in done.stdout.partition("fastlt COMMAND --help")[0]


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help(command: str, fastlt: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = fastlt(*command.split(), "--help")
    assert status == 0
    assert f"fastlt {command}" in out
    assert max(map(len, out.splitlines())) <= 80
    assert not re.search(r"\b(STR|INT|FLOAT|PATH|NONE|None)\b", out)


def test_help_says_no_none_and_breaks_no_line_early() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        """What it is."""

        out: Annotated[Path, "DIR"] | None = None
        """Where to; by
        default nowhere."""
        size: int = 3
        """Pixels."""

    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as output:
        common.parse(Settings, ["--help"], "some")
    words = " ".join(output.getvalue().replace("│", " ").split())
    assert "--out DIR Where to; by default nowhere. --size N Pixels. (default: 3)" in words
    assert common.parse(Settings, ["--out", "there"], "some") == Settings(out=Path("there"))


def test_positional_arguments_stand_anywhere_but_behind_a_flag_of_many_values() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        """What it is."""

        names: tyro.conf.Positional[tuple[str, ...]] = ()
        mean: tuple[float, float, float] | None = None
        rates: tuple[float, ...] = ()
        fast: bool = False

    argv = ["a", "--fast", "b", "--mean", "-1", "2", "3", "c", "--no-fast", "d", "--rates", "1", "-2"]
    expected = Settings(names=("a", "b", "c", "d"), mean=(-1, 2, 3), rates=(1, -2))
    assert common.parse(Settings, argv, "some") == expected
    assert common.parse(Settings, [*argv[:3], "--rates=1", "e"], "some").rates == (1,)
    with pytest.raises(ValueError, match=r"^--mean: "):
        common.parse(Settings, ["--mean", "1", "--fast", "a"], "some")


def test_train_rebalance_evaluate_report_on_somebodys_folder(data_root: Path, fastlt: Callable[..., Outcome]) -> None:
    status, out, err = fastlt(*train_arguments(data_root))
    assert status == 0, err
    assert "fastlt rebalance" in out
    last = Path("runs/last")
    assert last.resolve().parent == (Path("runs/folder")).resolve()

    status, out, err = fastlt("rebalance", "--tau", "0.7", "--json", "table.json")
    assert status == 0, err
    assert "tau 0.7" in out
    rows = json.loads(Path("table.json").read_text())["results"]
    assert {(row["method"], row["split"]) for row in rows} == {
        ("joint", "val"),
        ("joint", "test"),
        ("tau", "val"),
        ("tau", "test"),
    }
    assert all(Path(row["checkpoint"]).is_file() for row in rows)

    status, out, err = fastlt("evaluate", "--method", "tau", "--split", "test")
    assert status == 0, err
    assert "test" in out
    assert not any(line.startswith("val") for line in out.splitlines())

    status, out, err = fastlt("report")
    assert status == 0, err
    assert (last / "report" / "index.html").is_file()


def test_killed_training_is_resumed_by_the_command_it_prints(data_root: Path, tmp_path: Path) -> None:
    arguments = [*map(str, train_arguments(data_root, "--epochs", 500, "--out", "run", "--log-every", 1))]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastlt", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "last.safetensors").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + 15
    assert error.count("\n") == 1
    assert "fastlt train --resume --out run\n" in error
    _, metadata = load(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert metadata["progress"]["step"] > 0


def test_recipes_prints_settings_that_json_holds(fastlt: Callable[..., Outcome]) -> None:
    status, out, _ = fastlt("recipes", "glyphs_lt", "--json", "recipe.json")
    assert status == 0
    written = json.loads(Path("recipe.json").read_text())
    assert (written["dataset"], written["backbone"], written["sources"]["backbone"]) == ("glyphs_lt", "resnet8", "ours")
    assert "resnet8" in out
    status, out, _ = fastlt("recipes")
    assert status == 0
    assert "folder" in out


def test_doctor_finds_this_machine_in_order(fastlt: Callable[..., Outcome]) -> None:
    status, _, _ = fastlt("doctor", "--json", "doctor.json")
    findings = {row["name"]: row for row in json.loads(Path("doctor.json").read_text())}
    assert status == 0, findings
    assert findings["C++ core"]["state"] == "ok"
    for row in findings.values():
        assert row["state"] in ("ok", "absent")


def test_data_commands(fastlt: Callable[..., Outcome]) -> None:
    shape = "--classes 6 --images 96 --max 40 --min 5 --size 16 --val-per-class 2 --test-per-class 0 --num-threads 1"
    status, _, err = fastlt("data", "synth", "made", *shape.split())
    assert status == 0, err
    status, out, err = fastlt("data", "info", "made", "--json", "info.json")
    assert status == 0, err
    assert "6 classes (0 many, 2 medium, 4 few), imbalance ratio 8.0" in out
    facts = json.loads(Path("info.json").read_text())
    assert facts["splits"]["train"]["num_images"] == 96
    status, out, err = fastlt(
        "data", "split", "made/train", "--out", "lists", "--val-per-class", 1, "--test-per-class", 1
    )
    assert status == 0, err
    assert "fastlt train --dataset folder --data-root lists" in out
    status, out, err = fastlt("data", "info", "lists")
    assert status == 0, err
