"""Dated records in results/: NAME-<date>.json, and NAME-<date>.md beside it for readers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastlt.report.reproduction import over_seeds

RESULTS = Path(__file__).parent / "results"


def newest(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """Return the newest record of a name, None if there is none."""
    dated = re.compile(re.escape(name) + r"-\d{4}-\d\d-\d\d\.json")
    files = sorted(file for file in folder.glob("*.json") if dated.fullmatch(file.name))
    return json.loads(files[-1].read_text(encoding="utf-8")) if files else None


def write(name: str, date: str, record: dict[str, Any], page: str = "", *, folder: Path = RESULTS) -> None:
    """Write a record and, if it has one, its page, which is also printed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{date}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if page:
        (folder / f"{name}-{date}.md").write_text(page, encoding="utf-8")
        print(page)


def seeds_cell(values: Sequence[float], *, sign: str = "") -> str:
    """Return the mean over seeds ± half its 95 % interval, as the cell of a table."""
    middle, half = over_seeds(values)
    return f"{middle:{sign}.1f}" + ("" if half is None else f" ± {half:.1f}")
