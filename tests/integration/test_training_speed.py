"""How a run is computed: what it waits for, what it compiles, what it repeats, and what it says when it cannot."""

import dataclasses
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fastlt import Run, TrainConfig, train, training


@pytest.fixture
def short(small_config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A run of two epochs."""
    return dataclasses.replace(small_config, epochs=2, out=tmp_path / "run")


def test_every_epoch_says_how_long_it_waited_for_data(short: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fastlt"):
        run: Run = train(short, console=Console(file=io.StringIO()))
    shares = [json.loads(line)["data_wait_share"] for line in run.metrics.read_text().splitlines()]
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)
    assert f"waited for data {100 * shares[0]:.0f} %" in caplog.text


def test_deterministic_holds_for_the_run_and_no_longer(
    short: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = training.loss_function, []

    def watched(*settings: Any) -> Any:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
        return original(*settings)

    monkeypatch.setattr(training, "loss_function", watched)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    train(short)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    repeatable = dataclasses.replace(short, epochs=1, deterministic=True, randaugment=1, mixup=0.2)
    runs = [train(dataclasses.replace(repeatable, out=tmp_path / name)) for name in ("a", "b")]
    assert seen == [(False, True), (True, False), (True, False)]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert runs[0].config.deterministic
    assert len(accuracies(run)) == 3
    assert accuracies(run) == pytest.approx(accuracies(eager), abs=2)  # an image more or less


def accuracies(run: Run) -> list[float]:
    """Val top-1 of every epoch."""
    return [json.loads(line)["val"]["all"] for line in run.metrics.read_text().splitlines()]
