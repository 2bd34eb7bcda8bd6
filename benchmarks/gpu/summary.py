"""The figures of `python -m benchmarks.gpu` as one page of Markdown, made from the JSON files that DIR has."""

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
    """Return the machine, which must be quoted with the figures."""
    return ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)


def step_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield the timed steps, each rate beside torchvision's of the same network."""
    theirs = {row["backbone"]: row["images_per_s"] for row in data["results"] if row["variant"].startswith("torchv")}

    def ratio(row: dict[str, Any]) -> str | None:
        peer, rate = theirs.get(row["backbone"]), row["images_per_s"]
        return f"{rate / peer:.2f}" if peer and rate else row["error"]

    yield f"Batch {data['batch_size']}, {data['image_size']} pixels."
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
        for row in data["results"]
    ]
    yield from rows(heads, lines)


def end_to_end_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield loader and step together."""
    alone = figure(data["step_images_per_s"])
    yield f"{data['backbone']}, batch {data['batch_size']}; the step alone makes {alone} img/s."
    yield ""
    lines = [
        (name, figure(row.get("images_per_s")), figure(row.get("share_of_step"), ".0%") or row.get("error"))
        for name, row in named_rows(data)
    ]
    yield from rows(("loader or trainer", "img/s", "of the step"), lines)


def named_rows(data: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the named rows of a part, without the machine and the settings."""
    for name, row in data.items():
        if isinstance(row, dict) and name != "machine":
            yield name, row


def rates_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield a table of rates, each with its ratio to the first."""
    yield f"{data['backbone']}, batch {data['batch_size']}."
    yield ""
    named = list(named_rows(data))
    base = next((row["images_per_s"] for _, row in named if "images_per_s" in row), None)
    lines = []
    for name, row in named:
        rate = row.get("images_per_s")
        lines.append((name, figure(rate), f"{rate / base:.2f}" if rate and base else row.get("error")))
    yield from rows(("", "img/s", "x the first"), lines)


def operations_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield the operations, each group beside its matrix product."""
    for shape in dict.fromkeys(tuple(row["shape"]) for row in data["rows"]):
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
            for row in data["rows"]
            if tuple(row["shape"]) == shape
        ]
        yield from rows(("operation", "ms", "x product", "peak MB"), lines)
        yield ""


def times_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield milliseconds a call."""
    if "skipped" in data:
        yield f"Skipped: {data['skipped']}."
        return
    yield from rows(("step", "ms"), [(name, f"{ms:.3f}") for name, ms in data["ms"].items()])


def loader_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield the loader's stages and backends."""
    lines = [(row["name"], row["num_threads"], figure(row["images_per_s"]) or row["error"]) for row in data["results"]]
    yield from rows(("stage or loader", "threads", "img/s"), lines)


def tune_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield the loader's best settings."""
    best = data["best"]
    settings = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in best.items() if key != "images_per_s")
    yield f"`{settings}`: {figure(best['images_per_s'])} img/s."


def profile_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield the kernels that take most of a step."""
    yield f"{data['backbone']}, batch {data['batch_size']}, {data['precision']}: {data['ms_a_step']:.2f} ms a step."
    yield (
        f"It must move {data['gb_a_step']:.1f} GB (by a model), and memory is copied at "
        f"{data['copied_gb_per_s']:,.0f} GB/s: {data['share_of_ceiling']:.0%} of that ceiling is reached."
    )
    yield ""
    lines = [
        (
            f"`{kernel['name'].replace('|', '/')}`",
            f"{kernel['ms']:.3f}",
            f"{kernel['share']:.1%}",
            f"{kernel['calls']:g}",
        )
        for kernel in data["kernels"][:NUM_KERNELS]
    ]
    yield from rows(("kernel", "ms a step", "share", "calls"), lines)


def loss_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield how far bf16 strays from fp32."""
    lines = [(name, f"{row['largest_gap']:.1%}") for name, row in named_rows(data)]
    yield from rows(("network", "largest gap of the smoothed losses"), lines)


def compile_part(data: dict[str, Any]) -> Iterator[str]:
    """Yield how long each step took to compile, beside others."""
    lines = [
        (row["backbone"], row["variant"], row["candidate"], figure(row.get("seconds")) or row["error"])
        for row in data["steps"]
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
    contents = {}
    for name in PARTS:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # not reached, or cut short
            contents[name] = json.loads((folder / f"{name}.json").read_text())
    lines = ["# Figures of one run of `python -m benchmarks.gpu`", ""]
    for name, content in contents.items():
        title, part = PARTS[name]
        lines += [f"## {title}", "", *part(content), "", f"`{name}.json`: {machine_line(content['machine'])}.", ""]
    missing = [name for name in PARTS if name not in contents]
    if missing:
        lines += [f"Without figures: {', '.join(missing)}.", ""]
    return "\n".join(lines)
