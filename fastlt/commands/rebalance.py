"""`fastlt rebalance`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ..config import RebalanceConfig
from ..config.checkpoint import CheckpointConfig
from .common import Output, console, open_run, parse, print_results, say, settings_of

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".safetensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rebalance(Output, RebalanceConfig):
    """Rebalance the linear classifier of a trained network (stage 2)."""

    run: tyro.conf.Positional[Annotated[str, "[RUN | CHECKPOINT]"]] = ""
    """A run folder, by default the last one trained here (runs/last), or a checkpoint from elsewhere: a file or a
    folder with weights. Averaged weights are preferred to plain ones."""
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)


def run(argv: Sequence[str]) -> None:
    """Run `fastlt rebalance`."""
    parsed = parse(Rebalance, argv, "rebalance")
    if names_checkpoint(parsed.run):
        rebalance_file(parsed)
    else:
        rebalance_run(parsed)


def rebalance_run(parsed: Rebalance) -> None:
    """Rebalance a run, and print its table and the paths of the checkpoints."""
    if flags := parsed.checkpoint.given(ignored=("data_root", "lists")):
        raise ValueError(
            f"{flags[0]}: got it with {parsed.run or 'the last run'}, a run, which knows its own settings; expected a "
            "CHECKPOINT; drop it, or name a checkpoint first"
        )
    run = open_run(parsed.run, parsed.checkpoint.data_root, parsed.checkpoint.lists)
    from ..rebalancing.run import read_released, read_results, rebalance

    rebalance(run, settings_of(parsed, RebalanceConfig))
    print_results(read_results(run, parsed.methods), str(run.path), parsed.json)
    if released := read_released(run, parsed.method):
        console.print()
        console.print(released.table("as released, exactly: no linear head says the same"))
    for method in parsed.methods:
        say(f"checkpoint: {run.method(method) / 'model.safetensors'}")


def rebalance_file(parsed: Rebalance) -> None:
    """Rebalance a checkpoint, and print its table and the paths of the new checkpoints."""
    from ..rebalancing.checkpoint import rebalance_checkpoint
    from ..rebalancing.run import read_results

    run, outputs = rebalance_checkpoint(Path(parsed.run), parsed.checkpoint, settings_of(parsed, RebalanceConfig))
    print_results(read_results(run, parsed.methods), parsed.run, parsed.json)
    for out in outputs.values():
        say(f"checkpoint: {out}")


def names_checkpoint(text: str) -> bool:
    """Return whether an argument names a checkpoint: a file, or a folder with weights that is not a run."""
    path = Path(text)
    if path.is_file() or path.suffix in CHECKPOINT_SUFFIXES:
        return True
    has_weights = path.is_dir() and any(file.suffix in CHECKPOINT_SUFFIXES for file in path.iterdir())
    return bool(text) and not (path / "data.json").is_file() and has_weights
