"""`fastlt doctor`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Column, Table

from .common import Output, console, parse, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor(Output):
    """Say what is installed, what works, and what to do about the rest."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt doctor`; the exit status is 1 when something is broken."""
    parsed = parse(Doctor, argv, "doctor")
    from ..doctor import examine

    findings = examine()
    table = Table(*(Column(head, overflow="fold") for head in ("what", "state", "found", "what to do")))
    style = {"ok": "green", "absent": "yellow", "broken": "red"}
    for finding in findings:
        state = f"[{style[finding.state]}]{finding.state}[/]"
        table.add_row(finding.name, state, escape(finding.detail), escape(finding.advice))
    console.print(table)
    write_output(parsed.json, [dataclasses.asdict(finding) for finding in findings])
    if any(finding.state == "broken" for finding in findings):
        raise SystemExit(1)
