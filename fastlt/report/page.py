"""Fills the template of the report's page."""

from __future__ import annotations

import base64
import importlib.metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from ..config import SHOT_GROUPS
from ..evaluation.results import ACCURACIES, DETAILS, DETAILS_NOTE, LEARNED_NOTE, Accuracy, Result, Results, plain_name
from ..files import naming
from ..run import Run
from ..runtime.output import quoted
from .figures import Figure, Material
from .plots import dark_variant
from .worst import Worst

PAGE = "index.html"


def write_page(material: Material, figures: list[Figure], worst: Worst, notes: list[str]) -> None:
    """Write `index.html` with its pictures inside.

    Args:
        material: The contents of the report.
        figures: In the order of the page.
        worst: The worst classes.
        notes: Sentences on what is missing.
    """
    run, results, counts, config = material.run, material.results, material.counts, material.run.config
    splits = list(dict.fromkeys(row.split for row in results))
    if "train" in splits:
        notes = [*notes, f"The data have no val split: train is {LEARNED_NOTE}."]
    elif "test" not in splits:
        notes = [
            *notes,
            f"The data have no test split: settings are chosen on {material.split}, so its accuracies are optimistic.",
        ]
    if material.choice is not None and material.choice.method == "joint":
        notes = [*notes, f"The joint classifier is {material.choice.reason()}: no method is better."]
    elif material.after is None:
        notes = [
            *notes,
            f"No classifier is rebalanced yet; make one with: fastlt rebalance {quoted(run.path)}",
        ]
    page = (
        Environment(loader=PackageLoader("fastlt.report", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .get_template("report.html")
        .render(
            title=f"{config.backbone} on {config.dataset}",
            subtitle=f"{counts.sum():,} training images in {len(counts):,} classes of {counts.max():,} to "
            f"{counts.min():,}{training_of(run)}.",
            headline=headline(material),
            after=material.after.label if material.after else "",
            reason=material.choice.reason() if material.choice else f"the one with the best class mean on {splits[0]}",
            split=material.split,
            columns=[name.replace("_", " ") for name in ACCURACIES],
            details=DETAILS,
            details_note=DETAILS_NOTE,
            splits=[(name, [html_row(row, results) for row in results if row.split == name]) for name in splits],
            selections=[f"{phrase[0].upper()}{phrase[1:]}." for phrase in results.selections(plain=True)],
            notes=notes,
            figures=[html_figure(figure) for figure in figures],
            worst=worst,
            footer=f"{run.path} · fastlt {importlib.metadata.version('fastlt')}",
        )
    )
    with naming(material.folder / PAGE):
        (material.folder / PAGE).write_text(page, encoding="utf-8", errors="replace")


def training_of(run: Run) -> str:
    """Return how a run was trained, to follow its data; nothing without a record, as for somebody's checkpoint."""
    config = run.config
    if not run.metrics.is_file():
        return ""
    return f"; {config.epochs} epochs, {config.sampling.replace('_', '-')} sampling, seed {config.seed}"


def headline(material: Material) -> list[dict[str, str]]:
    """Return the accuracies before and after rebalancing, for the cards."""
    if material.after is None:
        return []
    old, new = (
        material.results.find(classifier.method, material.split) for classifier in (material.before, material.after)
    )
    cards = []
    for name in ("all", *SHOT_GROUPS):
        first, last = getattr(old, name), getattr(new, name)
        if first is not None and last is not None:
            change = f"{last.value - first.value:+z.1f}".replace("-", "−")
            cards.append({"name": name, "before": f"{first.value:.1f}", "after": f"{last.value:.1f}", "change": change})
    return cards


def html_figure(figure: Figure) -> dict[str, str]:
    """Return a figure for the page, with its pictures as base64."""
    values = {"title": figure.title, "caption": figure.caption, "alt": figure.alt, "light": "", "dark": ""}
    if figure.path is not None:
        values |= {"light": inline(figure.path), "dark": inline(dark_variant(figure.path))}
    return values


def inline(path: Path) -> str:
    """Return a file's bytes as base64."""
    return base64.b64encode(path.read_bytes()).decode()


def html_row(row: Result, results: Results) -> dict[str, Any]:
    """Return a table row; an accuracy whose interval is disjoint from the joint classifier's is marked."""
    joint = results.find("joint", row.split)

    def cell(accuracy: Accuracy | None, before: Accuracy | None) -> dict[str, str]:
        if accuracy is None or before is None:
            return {"value": "-", "half": "", "mark": ""}
        gain, loss = accuracy.ci95[0] > before.ci95[1], accuracy.ci95[1] < before.ci95[0]
        return {
            "value": f"{accuracy.value:.1f}",
            "half": f"±{accuracy.half_width:.1f}",
            "mark": "gain" if gain else "loss" if loss else "",
        }

    return {
        "classifier": plain_name(row.method, row.label),
        "details": row.details(),
        "cells": [cell(getattr(row, name), getattr(joint, name)) for name in ACCURACIES],
    }
