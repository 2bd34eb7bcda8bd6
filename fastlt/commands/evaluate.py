"""`fastlt evaluate`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from ..config import EvaluateConfig
from .common import RunArgument, console, open_run, parse, print_results, say, settings_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(RunArgument, EvaluateConfig):
    """Report the accuracy of a run by shot group, with 95 % intervals."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt evaluate`."""
    parsed = parse(Evaluate, argv, "evaluate")
    run = open_run(parsed.run, parsed.data_root, parsed.lists)
    from ..evaluation.choice import path_of
    from ..evaluation.scoring import evaluate

    results = evaluate(run, config=settings_of(parsed, EvaluateConfig))
    print_results(results, str(run.path), parsed.json)
    console.print()
    console.print(results.details_table())
    if results.comparisons:
        console.print()
        console.print(results.comparison_table())
    if not path_of(run).is_file():
        say(f"next: fastlt rebalance {shlex.quote(str(run.path))}")
    elif not parsed.method:
        say(f"{results.rows[0].method} is what this run goes by; --method all shows every classifier")
