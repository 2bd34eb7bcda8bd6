"""`fastlt demo`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from .common import Output, console, parse, print_results, say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(Output):
    """The whole job on the embedded data set: train, rebalance, print the table, write the report."""

    seed: int = 0
    """Seed of the run."""
    out: Path | None = None
    """Run folder; by default runs/glyphs_lt/<backbone>-<time>."""
    device: str = "auto"
    """cuda, cuda:N or cpu; auto takes a CUDA device if there is one."""
    loader: str = "auto"
    """Image loader: memory, device, dali, pillow or auto."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt demo`."""
    parsed = parse(Demo, argv, "demo")
    from ..demo import demo

    results, report = demo(
        seed=parsed.seed, out=parsed.out, console=console, device=parsed.device, loader=parsed.loader
    )
    print_results(results, "glyphs_lt: the same network before and after rebalancing its last layer", parsed.json)
    say(f"report with pictures: {report}")
