"""The report of a run: one self-contained HTML page and its figures as PNG files."""

from __future__ import annotations

import base64
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from . import plots
from .checkpoint import load
from .evaluation import ACCURACIES, Accuracy, Result, Results, reported_splits, score_joint, score_rebalanced
from .features import FeatureStore
from .files import replacing
from .models import LinearHead
from .run import Run


def write_report(run: Run, store: FeatureStore) -> tuple[Path, Results]:
    """Write ``report/index.html`` and its figures into the run: the joint classifier beside every rebalanced one.

    Args:
        run: The run.
        store: Its features.

    Returns:
        (the path of the page, the results in it).
    """
    folder = run.path / "report"
    folder.mkdir(exist_ok=True)
    splits = reported_splits(store)
    methods = sorted(path.parent.name for path in run.path.glob("rebalanced/*/model.safetensors"))
    rows = [*score_joint(store, splits), *(row for name in methods for row in score_rebalanced(store, name, splits))]
    rows.sort(key=lambda row: splits.index(row.split))
    results = Results(tuple(rows))
    heads = {"joint": store.head} | {name: rebalanced_head(run, name) for name in methods}
    reported = splits[-1]

    norms_png, groups_png = folder / "weight_norms.png", folder / "accuracy_by_group.png"
    counts = np.asarray(run.data["class_counts"])
    plots.weight_norms({name: head.norms().cpu().numpy() for name, head in heads.items()}, counts, norms_png)
    plots.accuracy_by_group({name: results.find(name, reported) for name in heads}, groups_png)
    figures = [
        figure(
            f"Accuracy by class size, on {reported}",
            groups_png,
            "Before and after: only the last linear layer differs. The bars' whiskers are 95 % intervals.",
        ),
        figure(
            "Weight norm by class size",
            norms_png,
            "Joint training gives classes with many images long weight vectors, so that they win; rebalancing takes "
            "the advantage away.",
        ),
    ]
    config = run.config
    chosen = sorted({f"{row.method}: chosen on {row.selected_on}." for row in rows if row.selected_on})
    page = (
        Environment(loader=PackageLoader("fastlt"), autoescape=True)
        .get_template("report.html")
        .render(
            title=f"{config.backbone} on {config.dataset}",
            subtitle=f"{counts.sum():,} training images, {len(counts)} classes of {counts.max()} to {counts.min()}. "
            f"{config.epochs} epochs, {config.sampling.replace('_', '-')} sampling, seed {config.seed}.",
            columns=[name.replace("_", " ") for name in ACCURACIES],
            rows=[html_row(row, results) for row in rows],
            selection=" ".join(chosen),
            figures=figures,
            footer=f"{run.path} · fastlt {importlib.metadata.version('fastlt')}",
        )
    )
    path = folder / "index.html"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path, results


def rebalanced_head(run: Run, method: str) -> LinearHead:
    """Read the head of a rebalanced classifier."""
    tensors, _ = load(run.method(method) / "model.safetensors")
    return LinearHead(tensors["fc.weight"], tensors.get("fc.bias"))


def figure(title: str, path: Path, caption: str) -> dict[str, str]:
    """Return a figure for the page, its image inlined."""
    return {"title": title, "caption": caption, "data": base64.b64encode(path.read_bytes()).decode()}


def html_row(row: Result, results: Results) -> dict[str, Any]:
    """Return a table row; an accuracy clearly above the joint classifier's (disjoint intervals) is marked as a gain."""
    joint = results.find("joint", row.split)

    def cell(accuracy: Accuracy | None, before: Accuracy | None) -> dict[str, Any]:
        if accuracy is None or before is None:
            return {"value": "-", "half": "", "gain": False}
        return {
            "value": f"{accuracy.value:.1f}",
            "half": f"± {accuracy.half_width:.1f}",
            "gain": accuracy.ci95[0] > before.ci95[1],
        }

    return {
        "split": row.split,
        "classifier": row.label,
        "cells": [cell(getattr(row, name), getattr(joint, name)) for name in ACCURACIES],
    }
