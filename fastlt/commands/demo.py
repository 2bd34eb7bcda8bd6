"""`fastlt demo`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.base import Device, Folder, Loader
from .common import Output, choice_of, console, open_run, parse, print_results, say

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation.results import Results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(Output):
    """Train, rebalance and report on the embedded data set: the whole workflow."""

    seed: int = 0
    """Seed of the run."""
    out: Folder | None = None
    """Run folder; by default runs/glyphs_lt/<backbone>-<time>."""
    device: Device = "auto"
    """Device to compute on; auto takes a CUDA device if there is one."""
    loader: Loader = "auto"
    """Image loader."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt demo`."""
    parsed = parse(Demo, argv, "demo")
    results, report = demo(
        seed=parsed.seed, out=parsed.out, console=console, device=parsed.device, loader=parsed.loader
    )
    print_results(results, "glyphs_lt: the same network before and after rebalancing its last layer", parsed.json)
    choice = choice_of(open_run(results.rows[0].run, None, None))
    if choice is not None:
        say(choice.sentence(has_test=True))
    say(f"report with pictures: {report}")


def demo(
    *, seed: int, out: Path | None, console: Console, device: str = "auto", loader: str = "auto"
) -> tuple[Results, Path]:
    """Train on glyphs_lt, rebalance with every method (settings chosen on val), choose one, and write the report.

    Args:
        seed: Seed of the run.
        out: The run folder, or None for a new one.
        console: Where progress is shown.
        device: cuda, cuda:N, cpu or auto.
        loader: The image loader.

    Returns:
        (the joint and the rebalanced accuracies, the path of the report).
    """
    from ..config import RebalanceConfig
    from ..features.store import FeatureStore
    from ..rebalancing import rebalance
    from ..recipes import recipe
    from ..report.writing import write_report
    from ..runtime.device import resolve_device
    from ..training.trainer import train

    config = dataclasses.replace(recipe("glyphs_lt"), seed=seed, out=out, device=device, loader=loader)
    run = train(config, console=console)
    for method in ("all", "auto"):  # one table of all, then the choice among them
        rebalance(run, RebalanceConfig(method=method, device=device, loader=loader))
    store = FeatureStore(run, device=resolve_device(device), loader=loader)
    path, results = write_report(run, store)
    return results, path
