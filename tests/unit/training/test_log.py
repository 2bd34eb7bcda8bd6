"""Rates, times left and records of a training's log."""

import io
import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from fastlt.runtime.log import first_line, only
from fastlt.training.events import Events
from fastlt.training.log import TrainingLog, clock, drop_records_after

VAL = {"all": 50.0, "many": 60.0, "medium": None, "few": 0.0}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599.6, "1:00:00"), (7384, "2:03:04")]
)
def test_a_duration_is_rounded_before_it_is_divided(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_rates_are_of_the_images_since_the_last_step_that_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr("fastlt.training.log.time.perf_counter", lambda: now)
    training_log = TrainingLog(
        console=Console(file=io.StringIO()),
        num_steps=100,
        first_step=10,
        batch_size=4,
        metrics=tmp_path / "metrics.jsonl",
        tensorboard=tmp_path / "events",
    )
    training_log.begin_epoch(20)
    with training_log, caplog.at_level(logging.INFO, "fastlt"):
        now = 102.0
        training_log.step(step=30, epoch="1/2", loss=1.25, learning_rate=0.1)
        now = 112.0
        training_log.step(step=40, epoch="1/2", loss=0.5, learning_rate=0.1)
        training_log.epoch(
            {"epoch": 1, "epochs": 2, "step": 40, "loss": 0.5, "train_accuracy": 75.0, "val": VAL,
             "data_wait_share": 0.25}
        )  # fmt: skip
    assert caplog.messages == [
        "epoch 1/2  step 30/100  loss 1.250  20 img/s  0:14 left",
        "epoch 1/2  step 40/100  loss 0.500  4 img/s  1:00 left",
        "epoch 1/2  loss 0.500  train 75.0 %  val 50.0 % (many 60.0  few 0.0)  waited for data 25 %",
    ]
    assert training_log.epoch_images_per_s() == pytest.approx(80 / 12)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["val"] == VAL


def test_records_of_epochs_that_are_trained_again_go(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    drop_records_after(metrics, 5)
    assert not metrics.exists()
    metrics.write_text('{"step": 5}\n{"step": 10}\n{"step": 15}\n{"st')
    drop_records_after(metrics, 10)
    assert metrics.read_text() == '{"step": 5}\n{"step": 10}\n'


def test_an_error_has_a_first_line_and_work_that_repeats_says_nothing() -> None:
    assert first_line(ValueError("\none\ntwo")) == "one"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    level = logging.getLogger("fastlt").level
    with only(logging.ERROR):
        assert not logging.getLogger("fastlt").isEnabledFor(logging.WARNING)
    assert logging.getLogger("fastlt").level == level


@pytest.mark.parametrize(
    "line",
    ["", "[]", "3", "null", '"step"', "[" * 10**5, '{"step": "5"}', '{"step": 1e999}', '{"loss": 1}', "\x00", "\udcff"],
)
def test_a_damaged_record_is_left_out(tmp_path: Path, line: str) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(
        f'{{"step": 5}}\n{line}\n{{"step": 7, "val": {{"few": null}}}}\n'.encode(errors="surrogateescape")
    )
    drop_records_after(metrics, 10)
    assert metrics.read_text() == '{"step": 5}\n{"step": 7, "val": {"few": null}}\n'


def test_records_are_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: got a pipe"):
        drop_records_after(tmp_path / "metrics.jsonl", 10)


@pytest.mark.parametrize("when", ["open", "write"])
def test_a_disk_that_fails_costs_the_curves_and_says_so_once(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    printed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", hook := printed.append)
    writing = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writing.RecordWriter, "write", fail) if when == "open" else None
        events = Events(tmp_path / "tensorboard", 0)
        patch.setattr(writing.RecordWriter, "write", fail)
        for step in range(50):
            events.add({"train/loss": 1.0, "val/few": None}, step)
            time.sleep(0.001)
        events.close()
    assert caplog.messages == [
        f"{tmp_path / 'tensorboard'} cannot be written (No space left on device): TensorBoard's curves end here"
    ]
    assert printed == []
    assert threading.excepthook == hook
