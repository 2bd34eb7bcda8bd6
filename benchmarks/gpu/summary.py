"""The lines of a run of `python -m benchmarks.gpu` as one page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastlt.report.markdown import rows

Line = Mapping[str, Any]

HIDDEN = ("row", "name", "operations", "memory_mhz", "temperature_c", "least_ms", "pass", "num", "images")
SENSED = ("sm_mhz", "least_sm_mhz", "power_w", "clocks.sm", "clocks.mem")  # differ from moment to moment
MACHINE, CHECKS = "machine", "checks"


def unverified(operations: Iterable[str], lines: list[Line]) -> str:
    """Return which checks of some operations failed or were not made, as text; empty if all are right."""
    doubts = []
    for operation in operations:
        row = f"{CHECKS}: {operation}"
        checks = [line for line in lines if line.get("row") == row]
        wrong = [line for line in newest(checks) if not line.get("ok", True)]
        ends = [line for line in checks if "ended_s" in line]
        if wrong:
            doubts.append(f"{len(wrong)} checks of {operation} fail")
        elif not ends or ends[-1]["error"]:
            doubts.append(f"{operation} not checked")
    return ", ".join(doubts)


def newest(lines: list[Line]) -> list[Line]:
    """Return the last line of each figure."""
    return list({(line["row"], line["name"]): line for line in lines if "name" in line}.values())


def page(lines: list[Line]) -> str:
    """Return the page: a table for the rows before each colon, the best of every layer added up, and what failed."""
    out = ["# Figures of `python -m benchmarks.gpu`", ""]
    figures = newest(lines)
    out += [part for facts in machines(lines) for part in (facts, "")]
    figures = [line for line in figures if line["row"] != MACHINE]
    for title in dict.fromkeys(line["row"].partition(": ")[0] for line in figures):
        mine = [line for line in figures if line["row"].partition(": ")[0] == title]
        out += [f"## {title}", "", *table(mine, lines), ""]
    out += layers(figures)
    ends = {line["row"]: line for line in lines if "ended_s" in line}
    failed = [f"- {name}: {line['error']}" for name, line in ends.items() if line["error"]]
    if failed:
        out += ["## Rows that did not end well", "", *failed, ""]
    return "\n".join(out)


def machines(lines: list[Line]) -> list[str]:
    """Return the facts of each machine, version and commit that figures are from; usually there is one."""
    facts = [
        ", ".join(
            f"{key} {value}" for key, value in line.items() if key not in (*HIDDEN, *SENSED) and value is not None
        )
        for line in lines
        if line["row"] == MACHINE and "name" in line
    ]
    found = [f"{each}." for each in dict.fromkeys(facts)]
    return found if len(found) < 2 else ["**The figures are of several machines, versions or commits.**", *found]


def table(figures: list[Line], lines: list[Line]) -> Iterator[str]:
    """Yield the table of some figures, with a column for whatever they have."""
    if figures[0]["row"].partition(": ")[0] == CHECKS:  # thousands are right
        wrong = [line for line in figures if not line.get("ok", True)]
        yield f"{len(figures) - len(wrong)} checks are right, {len(wrong)} wrong."
        yield from (f"- {line['row']}, {line['name']}: {line.get('error', '')}" for line in wrong)
        return
    columns = list(dict.fromkeys(key for line in figures for key in line if key not in HIDDEN))
    columns = [key for key in columns if any(isinstance(line.get(key), int | float | str) for line in figures)]
    columns = [key for key in columns if key != "unverified"]
    doubts = [unverified(line.get("operations", ()), lines) for line in figures]
    cells = [
        (line["row"].partition(": ")[2], own_name(line), *(cell(line.get(key)) for key in columns))
        + ((f"unverified: {doubt}" if doubt else "",) if any(doubts) else ())
        for line, doubt in zip(figures, doubts, strict=True)
    ]
    yield from rows(("", "", *columns, *([""] if any(doubts) else [])), cells, left=(0, 1))


def own_name(line: Line) -> str:
    """Return the name of a figure, empty if its row has the same."""
    name: str = line["name"]
    return "" if line["row"].endswith(f": {name}") else name.replace("|", "/")


def cell(value: Any) -> str | None:
    """Return a value as the text of a table's cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return value.replace("|", "/") if isinstance(value, str) else None if value is None else str(value)


def layers(figures: list[Line]) -> Iterator[str]:
    """Yield the fastest method of each layer and pass, and what a step of only these would take."""
    best: dict[tuple[str, str], Line] = {}
    for line in figures:
        if "pass" in line and "ms" in line:
            key = line["row"], line["pass"]
            if key not in best or line["ms"] < best[key]["ms"]:
                best[key] = line
    if not best:
        return
    ranked = sorted(best.values(), key=lambda line: -line["ms"] * line["num"])
    total = sum(line["ms"] * line["num"] for line in ranked)
    yield "## The fastest of each layer"
    yield ""
    cells = [
        (line["row"].partition(": ")[2], line["name"], line["num"], cell(line["ms"]), cell(line["ms"] * line["num"]))
        for line in ranked
    ]
    yield from rows(("layer", "fastest", "of them", "ms", "all, ms"), cells, left=(0, 1))
    yield ""
    yield f"All together: {total:.2f} ms a step, {1000 * ranked[0]['images'] / total:,.0f} img/s."
    yield ""
