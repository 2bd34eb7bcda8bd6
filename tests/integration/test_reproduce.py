"""`fastlt reproduce`, whole, on a small set: all samplings and classifiers, stopped, resumed, reused."""

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from fastlt import RebalanceConfig, TrainConfig
from fastlt.checkpoints.native import load
from fastlt.cli import dispatch
from fastlt.config import METHODS, SAMPLINGS
from fastlt.data.published.listed import ListedSet
from fastlt.data.published.specs import BENCHMARKS, SplitSpec
from fastlt.data.registry import PUBLISHED
from fastlt.models import create_model
from fastlt.report.reproduction import Reproduction
from fastlt.reproduce import reproduce

STAGE2 = RebalanceConfig(method="all", device="cpu", num_threads=1)


def tiny(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, epochs=1, batch_size=64)


def run(config: TrainConfig, out: Path, samplings: tuple[str, ...] = SAMPLINGS) -> Reproduction:
    return reproduce(config, STAGE2, samplings=samplings, seeds=(0, 1), out=out)


def test_a_made_up_set_goes_through_whole_and_the_tables_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))
    numbers = {"train": (17, None), "val": (6, 2), "test": (6, 2)}
    splits = {
        name: SplitSpec(num_images=numbers[name][0], per_class=numbers[name][1], lists=spec.lists, sha256=spec.sha256)
        for name, spec in BENCHMARKS["imagenet_lt"].splits.items()
    }
    small = dataclasses.replace(
        BENCHMARKS["imagenet_lt"], num_classes=3, max_count=9, min_count=3, groups=None, splits=splits
    )
    monkeypatch.setitem(PUBLISHED, "imagenet_lt", ListedSet(small))
    options = "--synthetic --synthetic-size 32 32 --epochs 1 --batch-size 8 --device cpu --num-threads 1"
    command = ["reproduce", "--dataset", "imagenet_lt", *options.split(), "--samplings", "instance_balanced"]
    dispatch([*command, "--backbone", "resnet10"])
    out = tmp_path / "runs/imagenet_lt/reproduce-resnet10-1-synthetic"
    text = (out / "table.md").read_text()
    assert text.startswith("# resnet10 on a made-up set of imagenet_lt's shape, 1 epochs")
    assert "accuracies say nothing about the real set" in text
    assert "paper: all" not in text
    assert (out / "table.csv").read_text().count("\na made-up set of imagenet_lt's shape,") == 2 * (1 + len(METHODS))
    assert json.loads((out / "results.json").read_text())["synthetic"] is True
    assert "on a made-up set of imagenet_lt's shape: the accuracies say nothing" in capsys.readouterr().out
    with pytest.raises(ValueError, match=rf"^--synthetic: .*--data-root {tmp_path}\b"):
        dispatch([*command, "--data-root", str(tmp_path), "--out", "other"])


@pytest.mark.slow
def test_two_processes_train_stage_1_and_what_is_done_is_reused(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    config = dataclasses.replace(tiny(small_config), gpus=2, bn_group=8, precision="fp32", lr=0.01)
    asked = {"samplings": ("class_balanced",), "seeds": (1,)}
    made = reproduce(config, STAGE2, out=tmp_path / "two", **asked)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(made.rows) == 2 * (1 + len(METHODS))
    run = "class_balanced-seed1"
    stored = json.loads((tmp_path / "two" / run / "config.json").read_text())
    assert (stored["gpus"], stored["sampling"], stored["seed"], stored["bn_group"]) == (2, "class_balanced", 1, 8)
    reproduce(dataclasses.replace(config, gpus=None), STAGE2, out=tmp_path / "one", **asked)
    weights = (load(tmp_path / out / run / "checkpoints/last.safetensors")[0] for out in ("two", "one"))
    ours, theirs = ({key: value for key, value in each.items() if key.startswith("model.")} for each in weights)
    # Over four steps in float32; another seed, order or rate is far off
    assert max((ours[key] - theirs[key]).abs().max().item() for key in ours) < 1e-3
    begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob("*.safetensors")}
    again = reproduce(config, STAGE2, out=tmp_path / "two", **asked)
    assert again.rows == made.rows
    assert all(path.stat().st_mtime_ns == at for path, at in begun.items())
    with pytest.raises(ValueError, match=r"^--gpus: got 3 processes x 1 pieces.*--batch-size 64"):
        reproduce(dataclasses.replace(config, gpus=3), STAGE2, out=tmp_path / "three", **asked)


def test_the_released_protocol_retrains_on_images_what_the_released_code_does(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(tiny(small_config), protocol="released")
    stage2 = dataclasses.replace(STAGE2, protocol="released", features="live", epochs=1)
    asked = {"samplings": ("instance_balanced",), "seeds": (0,), "out": tmp_path / "table"}
    made = reproduce(config, stage2, **asked)
    assert [row.method for row in made.rows if row.split == "test"] == ["joint", *METHODS]
    folder = tmp_path / "table" / "instance_balanced-seed0" / "rebalanced"
    stored = {method: json.loads((folder / method / "config.json").read_text()) for method in METHODS}
    assert {method for method in METHODS if stored[method]["features"] == "live"} == {"crt", "lws"}
    assert {method for method in METHODS if stored[method]["protocol"] == "released"} == {"crt", "lws"}
    assert "crt and lws saw images" in (tmp_path / "table" / "table.md").read_text()
    begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "table").rglob("*.safetensors")}
    assert reproduce(config, stage2, **asked).rows == made.rows
    assert all(path.stat().st_mtime_ns == at for path, at in begun.items())


def test_the_users_own_method_is_in_the_table_and_made_again(
    small_config: TrainConfig, tmp_path: Path, own_module: Callable[[str], str]
) -> None:
    name = own_module("def plain(problem):\n    return problem.head\n")
    asked = {"samplings": ("instance_balanced",), "seeds": (0,), "methods": ("tau", f"{name}:plain")}
    made = reproduce(tiny(small_config), STAGE2, out=tmp_path / "table", **asked)
    assert [row.method for row in made.rows if row.split == "test"] == ["joint", "tau", f"{name}.plain"]
    accuracies = [row.cells["all"] for row in made.rows if row.split == "test"]
    assert accuracies[0] == accuracies[2]
    begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "table").rglob("model.safetensors")}
    again = reproduce(tiny(small_config), STAGE2, out=tmp_path / "table", **asked)
    assert again.rows == made.rows
    assert {path.parent.name for path, at in begun.items() if path.stat().st_mtime_ns != at} == {f"{name}.plain"}
    with pytest.raises(ValueError, match=r"^--method: got absent_module:make, "):
        reproduce(tiny(small_config), STAGE2, out=tmp_path / "other", **asked | {"methods": ("absent_module:make",)})
    assert not (tmp_path / "other").exists()


PROGRAM = """
import json, sys
from pathlib import Path
from fastlt import RebalanceConfig, TrainConfig
from fastlt.reproduce import reproduce
if __name__ == "__main__":
    config = TrainConfig.from_json(json.loads(sys.argv[1]), source="test")
    stage2 = RebalanceConfig(method="all", device="cpu", num_threads=1)
    reproduce(config, stage2, samplings=("instance_balanced",), seeds=(0,), out=Path("table"))
"""


@pytest.mark.slow
def test_ctrl_c_reaches_all_processes_and_the_same_command_goes_on(
    small_config: TrainConfig, tmp_path: Path, ctrl_c: Callable[[Sequence[str]], tuple[str, str]]
) -> None:
    config = dataclasses.replace(small_config, epochs=20, gpus=2)
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", json.dumps(config.to_json())]
    _, error = ctrl_c(command)
    assert "stopped by SIGINT at step" in error
    assert "Traceback" not in error
    assert not (tmp_path / "table" / "results.json").exists()
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=120)
    assert len(json.loads((tmp_path / "table" / "results.json").read_text())["rows"]) == 2 * (1 + len(METHODS))
    lines = (tmp_path / "table" / "instance_balanced-seed0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 21))


@pytest.mark.slow
def test_everything_is_trained_once_and_reused(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "table"
    first = run(tiny(small_config), out, SAMPLINGS[:1])
    assert len(first.rows) == 2 * (1 + len(METHODS))
    begun = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    whole = run(tiny(small_config), out)
    assert len(whole.rows) == 2 * len(SAMPLINGS) * (1 + len(METHODS))
    assert all(path.stat().st_mtime_ns == time for path, time in begun.items())
    stored = json.loads((out / "results.json").read_text())
    assert len(stored["rows"]) == len(whole.rows)
    assert (out / "table.md").read_text().count("\n| ") == len(whole.rows) + 1
    assert (out / "table.csv").read_text().count("\n") == len(whole.rows) + 1


@pytest.mark.slow
def test_the_command_runs_whole_on_the_embedded_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--epochs 1 --batch-size 512 --samplings progressively_balanced --device cpu --num-threads 1"
    dispatch(["reproduce", "--dataset", "glyphs_lt", *options.split(), "--json", "found.json"])
    out = capsys.readouterr().out
    assert "test, progressively-balanced sampling" in out
    assert "paper" not in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["split"] for row in found["rows"]} == {"val", "test"}
    assert {row["method"] for row in found["rows"]} == {"joint", *METHODS}
    assert all(row["published"] is None for row in found["rows"])
    assert (tmp_path / "runs/glyphs_lt/reproduce-resnet8-1/table.csv").is_file()


def test_other_settings_in_the_same_folder_are_refused(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(create_model("resnet8", 10).state_dict(), "start.pth")
    config = dataclasses.replace(tiny(small_config), init=Path("start.pth"))
    first = run(config, tmp_path / "table", SAMPLINGS[:1])
    assert run(config, tmp_path / "table", SAMPLINGS[:1]).rows == first.rows
    with pytest.raises(ValueError, match=r"^--lr: got 0\.2\b.* 0\.1\b"):
        run(dataclasses.replace(config, lr=0.2), tmp_path / "table", SAMPLINGS[:1])
