"""The demo: the whole job on the embedded data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console

from .config import RebalanceConfig
from .evaluation.results import Results
from .features.store import FeatureStore
from .rebalancing import rebalance
from .recipes import recipe
from .report import write_report
from .runtime.device import resolve_device
from .training.trainer import train


def demo(
    *, seed: int, out: Path | None, console: Console, device: str = "auto", loader: str = "auto"
) -> tuple[Results, Path]:
    """Train on glyphs_lt, rebalance by every method, what is chosen chosen on val, and write the report.

    Args:
        seed: Seed of the run.
        out: The run folder, or None for a new one.
        console: Where progress is shown.
        device: cuda, cuda:N, cpu or auto.
        loader: The image loader.

    Returns:
        (the joint and the rebalanced accuracies, the path of the report).
    """
    config = dataclasses.replace(recipe("glyphs_lt"), seed=seed, out=out, device=device, loader=loader)
    run = rebalance(train(config, console=console), RebalanceConfig(method="all", device=device, loader=loader))
    store = FeatureStore(run, device=resolve_device(device), loader=loader)
    path, results = write_report(run, store)
    return results, path
