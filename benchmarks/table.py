"""Turn a run's JSON into a dated record and its Markdown table: `python -m benchmarks.table FILE.json NAME`.

FILE is pytest-benchmark's, or what `benchmarks/bench_ops.py --out FILE` wrote. Writes results/NAME-<date>.json
(statistics, rates, hardware, versions, clock, commit; no raw rounds, no host name) and the table, which sets every
median against the last saved record of that name. README's table of ratios is then rewritten from the newest records.
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastlt.report.markdown import rows

from . import headlines, records
from .records import RESULTS

README = Path(__file__).parents[1] / "README.md"
PACKAGES = ("torch", "numpy", "pillow", "nvidia-dali-cuda130")
STATISTICS = ("name", "median_s", "iqr_s", "rounds")
NOTABLE = 1.1  # a ratio beyond which a difference is flagged


def slim(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a run's JSON that a reader needs."""
    if "rows" in saved:
        return operations(saved)
    cpu, commit = saved["machine_info"]["cpu"], saved.get("commit_info", {})
    return {
        "date": saved["datetime"][:10],
        "command": "pytest benchmarks --benchmark-json FILE",
        "hardware": f"{cpu.get('count')} cores of {cpu.get('brand_raw', platform.processor())}",
        "clock": cpu.get("hz_actual_friendly") or cpu.get("hz_advertised_friendly"),
        "commit": f"{commit['id'][:12]}{'+' if commit.get('dirty') else ''}" if commit.get("id") else None,
        "versions": {"python": saved["machine_info"]["python_version"]} | dict(installed()),
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


def operations(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the operations' times that a reader needs."""
    machine = saved["machine"]
    return {
        "date": saved["date"],
        "command": "python benchmarks/bench_ops.py --out FILE",
        "hardware": f"{machine['device']}, {machine['threads']} threads",
        "commit": machine["commit"],
        "versions": {"python": machine["python"], "torch": machine["torch"]},
        "benchmarks": [
            {
                "name": f"{row['group']}, {row['method']}, {' x '.join(map(str, row['shape']))}",
                "median_s": row["ms"] / 1000,
                "times_product": row["times_product"],
                "peak_mb": row["peak_mb"],
            }
            for row in saved["rows"]
        ],
    }


def installed() -> list[tuple[str, str]]:
    """Return (name, version) of the installed packages that timings depend on."""
    versions = []
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append((name, version(name)))
    return versions


def against(row: dict[str, Any], before: dict[str, float]) -> str:
    """Return the ratio of a median to its last one, in bold beyond NOTABLE."""
    if row["name"] not in before:
        return "new"
    ratio = row["median_s"] / before[row["name"]]
    text = f"{ratio:.2f} x slower" if ratio > 1 else f"{1 / ratio:.2f} x faster"
    return f"**{text}**" if not 1 / NOTABLE <= ratio <= NOTABLE else text


def markdown(record: dict[str, Any], previous: dict[str, Any] | None = None) -> str:
    """Return the record as a table, a row a benchmark: its median, its rates, and the ratio to its last median."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    about = [f"`{record['command']}`", record["date"], record["hardware"]]
    about += [record["clock"]] if record.get("clock") else []
    about += [f"commit {record['commit']}"] if record.get("commit") else []
    lines = [f"{', '.join(about)}; {versions}. Medians over the rounds.", ""]
    heads = ["benchmark", "median, ms", "interquartile range, ms", "rounds", ""]
    before: dict[str, float] = {}
    if previous is not None:
        before = {row["name"]: row["median_s"] for row in previous["benchmarks"]}
        heads.append(f"against {previous['date']}")
        same = previous["hardware"] == record["hardware"]
        lines[0] += f" Bold: a change beyond {NOTABLE - 1:.0%}." + (
            "" if same else f" The last record is from {previous['hardware']}: its ratios compare machines."
        )
    table = []
    for row in record["benchmarks"]:
        notes = ", ".join(
            f"{key} {value:,.4g}" if isinstance(value, float) and value < 1000 else f"{key} {value:,.0f}"
            for key, value in row.items()
            if key not in STATISTICS and isinstance(value, int | float)
        )
        iqr = f"{1000 * row['iqr_s']:,.2g}" if "iqr_s" in row else "-"
        cells = [row["name"], f"{1000 * row['median_s']:,.4g}", iqr, str(row.get("rounds", "-")), notes]
        cells += [] if previous is None else [against(row, before)]
        table.append(cells)
    lines += rows(heads, table, left=(0, 4, 5))
    gone = [name for name in before if name not in {row["name"] for row in record["benchmarks"]}]
    if gone:
        lines += ["", f"No longer measured: {', '.join(gone)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Convert one file."""
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: python -m benchmarks.table FILE.json NAME; got {len(sys.argv) - 1} arguments")
    try:
        record = slim(json.loads(Path(sys.argv[1]).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        writers = "pytest --benchmark-json or bench_ops.py --out"
        raise SystemExit(f"{sys.argv[1]}: expected what {writers} writes; got {error!r}") from None
    name = sys.argv[2]
    page = markdown(record, records.newest(name, RESULTS))
    records.write(name, record["date"], record, page, folder=RESULTS)
    try:
        headlines.refresh(README, RESULTS)
    except LookupError as error:
        print(f"README is left as it is: no figure of {error} in the newest records")


if __name__ == "__main__":
    main()
