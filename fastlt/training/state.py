"""The state from which training resumes bit for bit: weights, momentum, moving averages, and progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints import native
from ..files import deciphering
from ..files.reading import convert
from ..models import Network
from ..run import Run
from ..runtime.output import quoted

MAX_COUNT = 2.0**53  # float64, in which processes sum, counts no further


@dataclass
class Progress:
    """The progress of a run: the part of its state that is not tensors. The sums are over all processes."""

    step: int = 0
    best: float = -1.0
    loss_sum: float = 0.0
    num_correct: int = 0
    num_seen: int = 0


def pack(model: Network, optimizer: torch.optim.SGD, average: Network | None) -> dict[str, Tensor]:
    """Return the tensors of a training state by name; `average` is the network of moving averages."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer
    if average is not None:
        tensors |= {f"ema.{key}": value for key, value in average.state_dict().items()}
    return tensors


@dataclass
class StateRecord:
    """What the checkpoint of a state says about it."""

    progress: Progress
    settings: str | None = None
    """The fingerprint of the settings; None in checkpoints of earlier versions."""
    decoder: str | None = None
    """What decoded the images, so that a resumed run sees the same pixels."""


def read_last(run: Run) -> tuple[dict[str, Tensor], StateRecord]:
    """Return (tensors, record) of the state that a run last saved.

    Raises:
        ValueError: The file is incomplete or not a checkpoint; the message says how to use the best checkpoint, if that
            is complete.
    """
    path = run.checkpoint("last")
    try:
        tensors, metadata = native.load(path)
        with deciphering(path, expected="the state of a training", remedy="train again"):
            record = convert(metadata, StateRecord)
        check_progress(record.progress, path)
        return tensors, record
    except ValueError as error:
        best = run.checkpoint("best")
        try:
            native.load(best)
        except (ValueError, FileNotFoundError):
            raise error from None
        raise ValueError(
            f"{error}; or use {best}, which is complete: rebalance it (fastlt rebalance {quoted(run.path)}), or start "
            f"a new run from it (--init {quoted(best)})"
        ) from error


def check_progress(progress: Progress, source: Path) -> None:
    """Raise a ValueError for counts below 0 or above MAX_COUNT."""
    for name, value in vars(progress).items():
        if not -1 <= value < MAX_COUNT or (value < 0 and name != "best"):
            raise ValueError(f"{source}: got progress.{name} {value!s:.60}; expected a number from 0 up; train again")


def unpack(
    tensors: Mapping[str, Tensor],
    model: Network,
    optimizer: torch.optim.SGD,
    average: Network | None,
    *,
    source: Path,
) -> None:
    """Load the tensors that `pack` returned.

    Args:
        tensors: The tensors of the state.
        model: The network.
        optimizer: Its optimizer.
        average: The network of moving averages, if there is one.
        source: The file they come from, for messages.

    Raises:
        ValueError: The tensors belong to another network.
    """

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    native.load_into(model, under("model."), source=source)
    if average is not None:
        native.load_into(average, under("ema."), source=source)
    momentum = under("momentum.")
    for name, parameter in model.named_parameters():
        if name in momentum:
            if momentum[name].shape != parameter.shape:
                raise ValueError(
                    f"{source}: got momentum.{name} of {list(momentum[name].shape)}; expected {list(parameter.shape)}, "
                    "as the weights; train again"
                )
            # empty_like keeps channels_last, the layout in which the buffer was saved
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum[name])
