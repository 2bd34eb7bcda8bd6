"""The figures of `python -m benchmarks.gpu` as one page of Markdown: what DIR's JSON files hold, whatever is there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastlt.report.markdown import rows

NUM_KERNELS = 15


def figure(value: float | None, form: str = ",.0f") -> str | None:
    """Return a number as text, None for none."""
    return None if value is None else format(value, form)


def machine_line(machine: dict[str, Any]) -> str:
    """Return what the figures must be quoted with."""
    return ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)


def step_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield the step matrix, each rate beside the peer's of its network."""
    theirs = {row["backbone"]: row["images_per_s"] for row in found["results"] if row["variant"].startswith("torchv")}

    def ratio(row: dict[str, Any]) -> str | None:
        peer, rate = theirs.get(row["backbone"]), row["images_per_s"]
        return f"{rate / peer:.2f}" if peer and rate else row["error"]

    yield f"Batch {found['batch_size']}, {found['image_size']} pixels."
    yield ""
    heads = ("network", "step", "img/s", "GiB", "of the bandwidth ceiling", "x torchvision compiled")
    lines = [
        (
            row["backbone"],
            row["variant"],
            figure(row["images_per_s"]),
            figure(row["peak_gib"], ".1f"),
            figure(row["bandwidth_share"], ".0%"),
            ratio(row),
        )
        for row in found["results"]
    ]
    yield from rows(heads, lines)


def end_to_end_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield loader and step together."""
    alone = figure(found["step_images_per_s"])
    yield f"{found['backbone']}, batch {found['batch_size']}; the step alone makes {alone} img/s."
    yield ""
    lines = [
        (name, figure(row.get("images_per_s")), figure(row.get("share_of_step"), ".0%") or row.get("error"))
        for name, row in measured(found)
    ]
    yield from rows(("loader or trainer", "img/s", "of the step"), lines)


def measured(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the named results of a part, leaving out what it says of itself."""
    for name, row in found.items():
        if isinstance(row, dict) and name != "machine":
            yield name, row


def rates_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield a table of rates, the first one's ratio beside each."""
    yield f"{found['backbone']}, batch {found['batch_size']}."
    yield ""
    named = list(measured(found))
    base = next((row["images_per_s"] for _, row in named if "images_per_s" in row), None)
    lines = []
    for name, row in named:
        rate = row.get("images_per_s")
        lines.append((name, figure(rate), f"{rate / base:.2f}" if rate and base else row.get("error")))
    yield from rows(("", "img/s", "x the first"), lines)


def operations_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield the operations, each group beside its matrix product."""
    for shape in dict.fromkeys(tuple(row["shape"]) for row in found["rows"]):
        num, classes, width = shape
        yield f"{num:,} rows, {classes:,} classes, width {width:,}."
        yield ""
        lines = [
            (
                f"{row['group']}: {row['method']}",
                f"{row['ms']:.3f}",
                f"{row['times_product']:.2f}",
                f"{row['peak_mb']:.0f}",
            )
            for row in found["rows"]
            if tuple(row["shape"]) == shape
        ]
        yield from rows(("operation", "ms", "x product", "peak MB"), lines)
        yield ""


def times_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield milliseconds a call."""
    if "skipped" in found:
        yield f"Skipped: {found['skipped']}."
        return
    yield from rows(("step", "ms"), [(name, f"{ms:.3f}") for name, ms in found["ms"].items()])


def loader_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield the loader's stages and backends."""
    lines = [(row["name"], row["num_threads"], figure(row["images_per_s"]) or row["error"]) for row in found["results"]]
    yield from rows(("stage or loader", "threads", "img/s"), lines)


def tune_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield the loader's best settings."""
    best = found["best"]
    settings = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in best.items() if key != "images_per_s")
    yield f"`{settings}`: {figure(best['images_per_s'])} img/s."


def profile_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield the kernels that take most of a step."""
    yield f"{found['backbone']}, batch {found['batch_size']}, {found['precision']}: {found['ms_a_step']:.2f} ms a step."
    yield (
        f"It must move {found['gb_a_step']:.1f} GB (by a model), and memory is copied at "
        f"{found['copied_gb_per_s']:,.0f} GB/s: {found['share_of_ceiling']:.0%} of that ceiling is reached."
    )
    yield ""
    lines = [
        (
            f"`{kernel['name'].replace('|', '/')}`",
            f"{kernel['ms']:.3f}",
            f"{kernel['share']:.1%}",
            f"{kernel['calls']:g}",
        )
        for kernel in found["kernels"][:NUM_KERNELS]
    ]
    yield from rows(("kernel", "ms a step", "share", "calls"), lines)


def loss_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield how far bf16 strays from fp32."""
    lines = [(name, f"{row['largest_gap']:.1%}") for name, row in measured(found)]
    yield from rows(("network", "largest gap of the smoothed losses"), lines)


def compile_part(found: dict[str, Any]) -> Iterator[str]:
    """Yield how long each step took to compile, beside others."""
    lines = [
        (row["backbone"], row["variant"], row["candidate"], figure(row.get("seconds")) or row["error"])
        for row in found["steps"]
    ]
    yield from rows(("network", "step", "rewriting", "s"), lines, left=(0, 1, 2))


PARTS: dict[str, tuple[str, Callable[[dict[str, Any]], Iterator[str]]]] = {
    "step": ("The training step", step_part),
    "switches": ("Its switches", step_part),
    "networks": ("Other networks", step_part),
    "end_to_end": ("Loader and step together", end_to_end_part),
    "ops": ("The operations", operations_part),
    "lws": ("A step of learnable weight scaling", times_part),
    "profile": ("Where the step's time goes", profile_part),
    "evaluation": ("Evaluation with a smaller last batch", rates_part),
    "candidates": ("What is not in the product", rates_part),
    "loss_curve": ("Losses in bf16 against fp32", loss_part),
    "loader": ("The loader", loader_part),
    "tune": ("The loader's best settings", tune_part),
    "compile": ("Compiling, several steps at once", compile_part),
}


def page(folder: Path) -> str:
    """Return the page of a folder of results."""
    found = {}
    for name in PARTS:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # not reached, or cut short
            found[name] = json.loads((folder / f"{name}.json").read_text())
    lines = ["# Figures of one run of `python -m benchmarks.gpu`", ""]
    for name, content in found.items():
        title, part = PARTS[name]
        lines += [f"## {title}", "", *part(content), "", f"`{name}.json`: {machine_line(content['machine'])}.", ""]
    missing = [name for name in PARTS if name not in found]
    if missing:
        lines += [f"Without figures: {', '.join(missing)}.", ""]
    return "\n".join(lines)
