"""Turn pytest-benchmark's JSON into a dated record and its Markdown table: `python -m benchmarks.table FILE.json NAME`.

Writes results/NAME-<date>.json (statistics, rates, hardware, versions; no raw rounds, no host name) and the table.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "pillow", "nvidia-dali-cuda130")


def slim(saved: dict[str, Any]) -> dict[str, Any]:
    """Return what a reader needs of pytest-benchmark's record."""
    cpu = saved["machine_info"]["cpu"]
    return {
        "date": saved["datetime"][:10],
        "command": "pytest benchmarks --benchmark-json FILE",
        "hardware": f"{cpu.get('count')} cores of {cpu.get('brand_raw', platform.processor())}",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "benchmarks": [
            {
                "name": row["name"],
                "median_s": row["stats"]["median"],
                "iqr_s": row["stats"]["iqr"],
                "rounds": row["stats"]["rounds"],
                **row["extra_info"],
            }
            for row in saved["benchmarks"]
        ],
    }


def markdown(record: dict[str, Any]) -> str:
    """Return the record as a table: a row a benchmark, its median and whatever rate it states."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines = [
        f"`{record['command']}`, {record['date']}, {record['hardware']}; {versions}. Medians over the rounds.",
        "",
        "| benchmark | median, ms | interquartile range, ms | rounds | |",
        "|---|---:|---:|---:|---|",
    ]
    for row in record["benchmarks"]:
        known = ("name", "median_s", "iqr_s", "rounds")
        notes = ", ".join(
            f"{key} {value:,.4g}" if isinstance(value, float) and value < 1000 else f"{key} {value:,.0f}"
            for key, value in row.items()
            if key not in known and isinstance(value, int | float)
        )
        median, iqr = 1000 * row["median_s"], 1000 * row["iqr_s"]
        lines.append(f"| {row['name']} | {median:,.4g} | {iqr:,.2g} | {row['rounds']} | {notes} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Convert one file."""
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: python -m benchmarks.table FILE.json NAME; got {len(sys.argv) - 1} arguments")
    record = slim(json.loads(Path(sys.argv[1]).read_text()))
    stem = RESULTS / f"{sys.argv[2]}-{record['date']}"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(record))
    print(markdown(record))


if __name__ == "__main__":
    main()
