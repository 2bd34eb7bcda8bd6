"""The demo over several seeds: `python -m benchmarks.demo_seeds --seeds 0 1 2` writes a JSON file and a Markdown table.

Each seed is a whole `fastlt demo` in a process of its own; seconds are those of that process, import to report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from fastlt.report.markdown import rows
from fastlt.runtime.device import resolve_device
from fastlt.runtime.machine import describe_machine

from . import records
from .records import seeds_cell

MAX_SEEDS = 10
NAMES = ("many", "medium", "few", "class_mean", "all")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run the demo over several seeds."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, at least two."""
    out: Path = records.RESULTS
    """Folder for demo-<date>.json and .md."""


def run_demo(seed: int, folder: Path) -> dict[str, Any]:
    """Run one demo and return its results and its cost."""
    results, run = folder / f"{seed}.json", folder / f"run-{seed}"
    command = [sys.executable, "-m", "fastlt", "demo", "--seed", str(seed), "--json", str(results), "--out", str(run)]
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    environment = json.loads((run / "environment.json").read_text())
    del environment["command"]  # it names a temporary folder, as do the fields dropped below
    rows = [row for row in json.loads(results.read_text())["results"] if row["split"] == "test"]
    last_epoch = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "seed": seed,
        "seconds": seconds,
        "train_accuracy": last_epoch["train_accuracy"],
        "precision": json.loads((run / "config.json").read_text())["precision"],
        "environment": environment,
        "results": [{key: row[key] for key in row if key not in ("run", "checkpoint")} for row in rows],
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the test accuracies: every classifier, then each one less joint, paired by seed."""
    by_method = [{row["method"].replace("_", " "): row for row in run["results"]} for run in runs]

    def values(method: str, name: str) -> list[float]:
        return [of_seed[method][name]["value"] for of_seed in by_method]

    def gains(method: str, name: str) -> list[float]:
        return [b - a for a, b in zip(values("joint", name), values(method, name), strict=True)]

    heads = ["test accuracy, %", *(name.replace("_", " ") for name in NAMES)]
    lines = [[method, *(seeds_cell(values(method, name)) for name in NAMES)] for method in by_method[0]]
    lines += [
        [f"**{method} - joint, paired**", *(seeds_cell(gains(method, name), sign="+") for name in NAMES)]
        for method in by_method[0]
        if method != "joint"
    ]
    return "\n".join(rows(heads, lines)) + "\n"


def main() -> None:
    """Run and write."""
    arguments = tyro.cli(Arguments)
    if not 2 <= len(arguments.seeds) <= MAX_SEEDS:
        raise SystemExit(f"--seeds: got {len(arguments.seeds)}; expected 2 to {MAX_SEEDS} seeds")
    with tempfile.TemporaryDirectory() as folder:
        runs = [run_demo(seed, Path(folder)) for seed in arguments.seeds]
    machine = describe_machine(resolve_device("auto"))
    seconds = ", ".join(f"{run['seconds']:.0f}" for run in runs)
    trained = ", ".join(f"{run['train_accuracy']:.1f}" for run in runs)
    text = (
        f"`python -m benchmarks.demo_seeds --seeds {' '.join(map(str, arguments.seeds))}` on {machine['device']}, "
        f"{runs[0]['precision']}, PyTorch {machine['torch']}. Mean over {len(runs)} seeds ± half the 95 % interval "
        f"(Student's t); what a method chooses is chosen on val. Seconds a demo: {seconds}. "
        f"Train accuracy of the joint network in its last epoch: {trained} %.\n\n{table(runs)}"
    )
    records.write("demo", time.strftime("%Y-%m-%d"), {"machine": machine, "runs": runs}, text, folder=arguments.out)


if __name__ == "__main__":
    main()
