"""`fastlt report`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .common import RunArgument, open_run, parse, say, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(RunArgument):
    """Write the report of a run: one page with the accuracies of its classifiers and the pictures that explain them."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt report`."""
    parsed = parse(Report, argv, "report")
    run = open_run(parsed)
    from ..features import FeatureStore
    from ..hardware import resolve_device
    from ..report import write_report

    path, results = write_report(run, FeatureStore(run, device=resolve_device("auto")))
    write_output(parsed.json, results.to_json())
    say(f"report with pictures: {path}")
