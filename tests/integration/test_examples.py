"""The programs in examples/ do what they say."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from fastlt import TrainConfig, train

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_method_is_compared_over_seeds(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own_method = example("own_method")
    config = dataclasses.replace(small_config, epochs=1, dataset="folder")
    found = own_method.compare(config, seeds=(0, 1, 2), out=tmp_path / "runs")
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(("joint", "tau", "crt", "blend"), 3)
    capsys.readouterr()
    own_method.show(found)
    blend = capsys.readouterr().out.splitlines()[-1]
    assert blend.startswith("blend ")
    assert blend.count("±") == 2
    stored = json.loads((tmp_path / "runs/seed2/rebalanced/blend/results.json").read_text())
    assert {row["seed"] for row in stored["results"]} == {2}


def test_a_loss_trains(small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    run = train(dataclasses.replace(small_config, epochs=1, loss="own_loss:half_balanced", out=tmp_path / "run"))
    assert json.loads((run.path / "config.json").read_text())["loss"] == "own_loss:half_balanced"
