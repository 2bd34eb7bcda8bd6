"""A training whose loss is absurd ends in an error that says so, whether the loss is finite or not."""

import dataclasses
from pathlib import Path

import pytest
import torch

from fastlt import TrainConfig, train
from fastlt.training.trainer import Trainer


@pytest.fixture
def short(small_config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A run of two epochs of nine steps."""
    return dataclasses.replace(small_config, epochs=2, out=tmp_path / "run")


def with_losses(monkeypatch: pytest.MonkeyPatch, config: TrainConfig, losses: dict[int, float]) -> None:
    """Let steps have the losses that are given, and others their own."""
    computed = Trainer.backward

    def backward(self: Trainer, *arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss, hits = computed(self, *arguments)  # type: ignore[arg-type]
        return torch.full_like(loss, losses.get(self.progress.step, loss.item())), hits

    monkeypatch.setattr(Trainer, "backward", backward)


@pytest.mark.parametrize("loss", [1.2e7, float("nan"), float("inf")])
def test_an_absurd_loss_stops_the_run_wherever_it_comes(
    loss: float, short: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_losses(monkeypatch, short, {4: loss})
    with pytest.raises(ValueError, match=r"^--lr: got a loss of (1\.\d+e\+06|nan|inf) .*diverged.*than 2\.3"):
        train(short)
    assert not (short.out / "checkpoints" / "best.safetensors").exists()


def test_a_run_does_not_end_as_trained_far_above_the_loss_of_guessing(
    short: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_losses(monkeypatch, short, dict.fromkeys(range(9, 18), 60.0))
    with pytest.raises(ValueError, match=r"^--lr: got a loss of 60 by step 18\b"):
        train(short)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_smoothing": 0.9},
        {"mixup": 0.4},
        {"loss": "ldam"},
        {"loss": "cb_focal"},
        {"loss": "balanced_softmax"},
    ],
)
def test_a_first_epoch_that_overshoots_is_no_false_alarm(
    changes: dict[str, object], short: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_losses(monkeypatch, short, {1: 300.0, 2: 120.0})
    train(dataclasses.replace(short, **changes))  # type: ignore[arg-type]
