"""What cached features lose against live images: `python -m benchmarks.live_vs_cached RUN RUN ...`.

Each RUN is a finished stage 1 with the same settings except the seed; `fastlt reproduce` leaves such runs. They are
copied, stage 2 is fitted on the copies in every way, and the ways are compared on the same test images.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from fastlt import EvaluateConfig, RebalanceConfig, Run, evaluate, rebalance
from fastlt.evaluation.classifier import Classifier, open_classifier
from fastlt.evaluation.scoring import compare
from fastlt.features.store import FeatureStore
from fastlt.report.markdown import rows
from fastlt.runtime.machine import processors

from . import records
from .records import seeds_cell

METHODS = ("crt", "lws")
WAYS: dict[str, dict[str, Any]] = {
    "cached": {},
    "cached, 8 views": {"views": 8},
    "live": {"features": "live"},
    "live, released protocol": {"features": "live", "protocol": "released"},
}
"""How stage 2 sees the training images; the first is the default."""
BASE = "cached"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare cached features with live images in stage 2."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Finished runs that differ in their seed only."""
    out: Path = records.RESULTS
    """Folder for live-vs-cached-<date>.json and .md."""


def measure(source: Path, folder: Path) -> dict[str, Any]:
    """Fit both methods in every way on a copy of a run, and compare on test."""
    run = Run(Path(shutil.copytree(source, folder / source.name)))
    record: dict[str, Any] = {"seed": run.config.seed, "ways": []}
    for method in METHODS:
        opened: dict[str, Classifier] = {}
        for way, settings in WAYS.items():
            began = time.perf_counter()
            rebalance(run, RebalanceConfig(method=method, device="cpu", **settings))
            seconds = time.perf_counter() - began
            classifier = open_classifier(FeatureStore(run, device=torch.device("cpu")), method)
            classifier.predictions("test")  # the next way overwrites the checkpoint, and may move the features
            opened[way] = classifier
            row = evaluate(run, config=EvaluateConfig(method=method, split="test", device="cpu")).find(method, "test")
            accuracies = {name: getattr(row, name).to_json() for name in ("class_mean", "many", "medium", "few")}
            record["ways"].append({"method": method, "way": way, "seconds": seconds, **accuracies})
        for way, classifier in opened.items():
            if way != BASE:
                (comparison,) = compare([classifier], opened[BASE], ["test"])
                record.setdefault("differences", []).append(
                    {"method": method, "way": way, **comparison.to_json()["class_mean"]}
                )
    return record


def table(by_seed: list[dict[str, Any]]) -> str:
    """Return the Markdown table: class means over seeds, and differences paired by seed and image."""
    others = [way for way in WAYS if way != BASE]
    heads = ["test class mean, %", BASE, *(f"{way} less {BASE}" for way in others)]
    lines = []
    for method in METHODS:
        base = [
            each["class_mean"]["value"]
            for record in by_seed
            for each in record["ways"]
            if (each["method"], each["way"]) == (method, BASE)
        ]
        cells = [seeds_cell(base)]
        for way in others:
            gains = [
                each["value"]
                for record in by_seed
                for each in record["differences"]
                if (each["method"], each["way"]) == (method, way)
            ]
            cells.append(seeds_cell(gains, sign="+"))
        lines.append([method, *cells])
    return "\n".join(rows(heads, lines)) + "\n"


def main() -> None:
    """Measure and write."""
    arguments = tyro.cli(Arguments)
    configs = {
        json.dumps(dataclasses.replace(Run.open(path).config, seed=0, out=None, data_root=None).to_json())
        for path in arguments.runs
    }
    if len(configs) != 1:
        raise SystemExit(
            f"RUN: got {len(arguments.runs)} runs of {len(configs)} settings; expected one but for the seed"
        )
    with tempfile.TemporaryDirectory() as folder:
        by_seed = [measure(path, Path(folder)) for path in arguments.runs]
    config = Run.open(arguments.runs[0]).config
    seeds = ", ".join(str(record["seed"]) for record in by_seed)
    page = (
        f"`python -m benchmarks.live_vs_cached RUN ...` on {config.dataset}, {config.sampling.replace('_', '-')} "
        f"{config.backbone} after {config.epochs} epochs, seeds {seeds}; {processors()}, PyTorch "
        f"{torch.__version__}. Points of class mean on test, paired by seed, ± half the 95 % interval over seeds "
        f"(Student's t).\n\n{table(by_seed)}"
    )
    record = {"dataset": config.dataset, "torch": torch.__version__, "records": by_seed}
    records.write("live-vs-cached", time.strftime("%Y-%m-%d"), record, page, folder=arguments.out)


if __name__ == "__main__":
    main()
