"""How a run is computed: what it waits for, what it compiles, what it repeats, and what it says when it cannot."""

import dataclasses
import functools
import io
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch._dynamo.testing import CompileCounterWithBackend

from fastlt import Run, TrainConfig, train
from fastlt.checkpoints import native
from fastlt.data.loaders.plan import TrainPlan
from fastlt.runtime.compiling import Compiler
from fastlt.training import step, trainer


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
    original, seen = trainer.loss_function, []

    def watched(*settings: Any) -> Any:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
        return original(*settings)

    monkeypatch.setattr(trainer, "loss_function", watched)
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
    first, second = (native.load(run.checkpoint("last"))[0] for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    monkeypatch.setattr(trainer, "loss_function", lambda *_: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception, match="stopped"):
        train(dataclasses.replace(repeatable, out=tmp_path / "c"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory) == before


def test_deterministic_is_a_setting_of_the_run(short: TrainConfig) -> None:
    assert dataclasses.replace(short, deterministic=True).fingerprint() != short.fingerprint()


EVERYTHING = {"ema": 0.9, "mixup": 0.2, "randaugment": 1, "warmup_epochs": 1, "accumulate": 2, "label_smoothing": 0.1}


def accuracies(run: Run) -> list[float]:
    """Val top-1 of every epoch."""
    return [json.loads(line)["val"]["all"] for line in run.metrics.read_text().splitlines()]


@pytest.mark.parametrize(
    "settings",
    [{}, EVERYTHING, {"loss": "ldam"}, {"loss": "cb_focal", "bn_group": 16}, {"train_only": ("layer2", "fc")}],
    ids=["plain", "everything", "ldam", "focal, ghost batch norm", "parts"],
)
def test_a_run_compiles_its_step_and_its_evaluation_once_each(
    settings: dict[str, Any],
    short: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = dataclasses.replace(short, epochs=3, **settings)
    eager = train(dataclasses.replace(config, out=tmp_path / "eager"))
    monkeypatch.setattr(step, "MIN_STEPS_TO_COMPILE_ON_CPU", 0)
    graphs = CompileCounterWithBackend("eager")
    compiled = functools.partial(torch.compile, backend=graphs, fullgraph=True)
    monkeypatch.setattr(torch, "compile", lambda function, options, **settings: compiled(function, **settings))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        run = train(config)
    assert "torch.compile does not work" not in caplog.text
    assert graphs.frame_count == 2  # 60 val images in batches of 32: the last one is smaller
    assert len(accuracies(run)) == 3
    assert accuracies(run) == pytest.approx(accuracies(eager), abs=2)  # an image more or less


def test_a_replay_that_overwrites_the_gradients_of_a_piece_changes_no_sum(
    short: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(short, epochs=1, accumulate=2)
    expected = native.load(train(config).checkpoint("last"))[0]
    original = trainer.loss_function

    def replayed(model: torch.nn.Module, *settings: Any) -> Any:
        loss, gradients = original(model, *settings), list[torch.Tensor]()
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: gradients.append(gradient.detach()))  # shares its memory

        def overwriting(piece: step.StepInput) -> Any:
            while gradients:
                gradients.pop().fill_(torch.nan)
            return loss(piece)

        return overwriting

    monkeypatch.setattr(trainer, "loss_function", replayed)
    monkeypatch.setattr(trainer, "Compiler", lambda *_, **__: Compiler(False, cuda_graphs=True))
    run = train(dataclasses.replace(config, out=tmp_path / "replayed", cuda_graphs=True))
    got = native.load(run.checkpoint("last"))[0]
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"^--batch-size: .*\b32 images of 32 pixels.*--accumulate 2\b.*--batch-size 16 --lr 0\.2\b"),
        (
            {"batch_size": 30, "accumulate": 2},
            r"^--batch-size: .*\b30 images of 32 pixels in 2 pieces.*--accumulate 5\b.*--batch-size",
        ),
        (
            {"batch_size": 2, "accumulate": 2},
            r"^--batch-size: .*\b2 images of 32 pixels in 2 pieces(?!.*--accumulate).*--batch-size 1 --lr",
        ),
    ],
)
def test_out_of_memory_says_what_was_in_use_and_what_to_try(
    settings: dict[str, Any], message: str, short: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "loss_function", lambda *_: full)
    with pytest.raises(ValueError, match=message) as caught:
        train(dataclasses.replace(short, lr=0.4, **settings))
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(r"\(peak \d+\.\d of \d+\.\d GiB\)", text)


def test_without_dali_one_line_says_what_it_costs(
    short: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    for name in ("fastlt.data.loaders.dali", "fastlt.data.loaders.dali_graph"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with caplog.at_level(logging.INFO, "fastlt"):
        train(dataclasses.replace(short, epochs=1, memory_share=0.0))
    assert sum("no DALI" in record.message for record in caplog.records) == 1
    assert "pillow loader" in caplog.text


@pytest.mark.parametrize("loader", ["memory", "pillow", "dali"])
def test_a_loader_that_dies_stops_the_run_with_its_cause(
    loader: str, short: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    work = TrainPlan.work

    def failing(self: TrainPlan, position: int, stand_ins: Any) -> Any:
        if position == 4:
            raise ConnectionAbortedError("the disk went away")
        return work(self, position, stand_ins)

    monkeypatch.setattr(TrainPlan, "work", failing)
    with pytest.raises((ConnectionAbortedError, RuntimeError)) as caught:
        train(dataclasses.replace(short, loader=loader))
    assert "the disk went away" in f"{caught.value}{caught.value.__cause__}"
