"""`fastlt rebalance`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..config import RebalanceConfig
from .common import RunArgument, narrow, open_run, parse, print_results, say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rebalance(RunArgument, RebalanceConfig):
    """Rebalance the classifier of a trained run (stage 2); the backbone stays as it is."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt rebalance`."""
    parsed = parse(Rebalance, argv, "rebalance")
    run = open_run(parsed)
    from ..evaluation import Results
    from ..rebalancing import rebalance

    rebalance(run, narrow(parsed, RebalanceConfig))
    print_results(Results.read(run.method(parsed.method) / "results.json"), str(run.path), parsed.json)
    say(f"checkpoint: {run.method(parsed.method) / 'model.safetensors'}")
