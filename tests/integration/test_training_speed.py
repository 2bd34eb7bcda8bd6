"""How a run is computed: what it waits for, what it compiles, what it repeats, and what it says when it cannot."""

import dataclasses
import io
import json
import logging
from pathlib import Path

import pytest
from rich.console import Console

from fastlt import Run, TrainConfig, train


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
