"""`fastlt evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..config import EvaluateConfig
from ..runtime.output import quoted
from .common import RunArgument, choice_of, console, open_run, parse, print_results, say, settings_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(RunArgument, EvaluateConfig):
    """Report the accuracy of a run by shot group, with 95 % intervals."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt evaluate`."""
    parsed = parse(Evaluate, argv, "evaluate")
    run = open_run(parsed.run, parsed.data_root, parsed.lists)
    from ..evaluation.scoring import evaluate

    results = evaluate(run, config=settings_of(parsed, EvaluateConfig))
    print_results(results, str(run.path), parsed.json)
    console.print()
    console.print(results.details_table())
    if results.comparisons:
        console.print()
        console.print(results.comparison_table())
    choice = choice_of(run)
    if choice is None:
        say(f"next: fastlt rebalance {quoted(run.path)}")
    elif not parsed.method:
        say(f"{choice.method}, {choice.reason()}; --method all shows every classifier of the run")
