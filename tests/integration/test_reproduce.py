"""`fastlt reproduce`, whole, on a small set: all samplings and classifiers, stopped, resumed, reused."""

import dataclasses
import json
from pathlib import Path

import pytest

from fastlt import RebalanceConfig, TrainConfig
from fastlt.config import METHODS, SAMPLINGS
from fastlt.reproduce import Reproduction, reproduce

STAGE2 = RebalanceConfig(method="all", device="cpu", num_threads=1)


def tiny(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, epochs=1, batch_size=64)


def run(config: TrainConfig, out: Path, samplings: tuple[str, ...] = SAMPLINGS) -> Reproduction:
    return reproduce(config, STAGE2, samplings=samplings, seeds=(0, 1), out=out)


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


def test_other_settings_in_the_same_folder_are_refused(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tiny(small_config), tmp_path / "table", SAMPLINGS[:1])
    with pytest.raises(ValueError, match=r"--lr: got 0\.2, but .* was begun with 0\.1"):
        run(dataclasses.replace(tiny(small_config), lr=0.2), tmp_path / "table", SAMPLINGS[:1])
