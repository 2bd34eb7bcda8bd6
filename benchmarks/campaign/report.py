"""What a campaign found, as rows of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fastlt.report.markdown import rows as table_rows

HEADS = ("part", "what", "trials", "of", "findings")


@dataclass(frozen=True)
class Finding:
    """Something that went wrong, and how to see it again: `python -m benchmarks.campaign --replay ...`."""

    kind: str
    detail: str
    replay: str
    seed: int

    @property
    def gist(self) -> str:
        """The finding without its numbers, by which repetitions are known."""
        return f"{self.kind} {re.sub('0x[0-9a-f]+|[0-9]+|k+', '0', self.detail)}"


@dataclass
class Row:
    """The trials of a command or reader."""

    part: str
    name: str
    trials: int = 0
    possible: int | None = None
    """How many different trials there are, where they can be counted."""
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Keep a finding, and print it if it is the first of its kind."""
        known = {each.gist for each in self.findings}
        self.findings.append(finding)
        if finding.gist in known:
            return
        print(f"FOUND {finding.kind}: {finding.detail}\n  --replay {finding.replay} --seed {finding.seed}", flush=True)

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return asdict(self)


def table(rows: Sequence[Row]) -> str:
    """Return the rows and their sums as a Markdown table."""
    lines = [
        [row.part, row.name, f"{row.trials:,}", f"{row.possible:,}" if row.possible else "", str(len(row.findings))]
        for row in rows
    ]
    total = ["", "**all**", f"{sum(row.trials for row in rows):,}", "", str(sum(len(row.findings) for row in rows))]
    return "\n".join(table_rows(HEADS, [*lines, total])) + "\n"
