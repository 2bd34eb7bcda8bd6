"""`fastlt rebalance`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..config import METHODS, RebalanceConfig
from .common import RunArgument, narrow, open_run, parse, print_results, say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rebalance(RunArgument, RebalanceConfig):
    """Rebalance the linear classifier of a trained network (stage 2); the backbone stays as it is."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt rebalance`."""
    rebalance_run(parse(Rebalance, argv, "rebalance"))


def rebalance_run(parsed: Rebalance) -> None:
    """Rebalance a run, print its table and say where the checkpoints are."""
    run = open_run(parsed)
    from ..rebalancing.stage2 import read_results, rebalance

    rebalance(run, narrow(parsed, RebalanceConfig))
    print_results(read_results(run, parsed.method), str(run.path), parsed.json)
    for method in METHODS if parsed.method == "all" else (parsed.method,):
        say(f"checkpoint: {run.method(method) / 'model.safetensors'}")


def names_checkpoint(text: str) -> bool:
    """Say whether an argument names a checkpoint: a file, or a folder of safetensors that is no run."""
    path = Path(text)
    if path.is_file():
        return True
    return bool(text) and not (path / "data.json").is_file() and any(path.glob("*.safetensors"))
