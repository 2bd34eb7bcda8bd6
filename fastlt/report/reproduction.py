"""The paper's table: accuracies of every sampling and classifier over seeds, beside the published figures."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from ..config import TrainConfig
from ..config.base import is_changeable, typed
from ..evaluation.results import ACCURACIES, Result, Results
from ..rebalancing.methods.registry import REGISTRY
from ..recipes import choices, recipe
from ..recipes.published import Published, published
from ..recipes.stage2 import PAPERS
from .markdown import rows

SCHEMA = 1
# 97.5 % points of Student's t, by degrees of freedom from 1; beyond the last, the normal point is within 4 %
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
Z975 = 1.96
RETRAINED = tuple(method.name for method in REGISTRY.values() if method.released_live)
"""The methods that the released code trains in stage 2, on images while BatchNorm drifts."""
OF_THE_TABLE = ("dataset", "sampling", "seed", "synthetic", "synthetic_size", "protocol")
"""Settings of stage 1 that the table names."""
OF_THE_MACHINE = ("strict", "precision", "compile", "deterministic")
"""Settings of stage 1 that say how it is computed rather than what."""


def departures(base: TrainConfig) -> dict[str, str]:
    """Return the settings of stage 1 that are not the recipe's, nor others of which the paper has results, in words."""
    usual, named = recipe(base.dataset), choices(base.dataset)
    found = {}
    for field in dataclasses.fields(TrainConfig):
        value, expected = getattr(base, field.name), getattr(usual, field.name)
        if is_changeable(field) or field.name in OF_THE_TABLE + OF_THE_MACHINE or value == expected:
            continue
        if value in named.get(field.name, ()) or (field.name == "init" and usual.train_only):
            continue  # a recipe with frozen parts asks for weights to start from
        flag = f"--{field.name.replace('_', '-')}"
        found[field.name] = f"{flag} {typed(value) or 'none'} for {typed(expected) or 'none'}"
    return found


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean over seeds and half its 95 % interval (Student's t), None for a single seed."""
    if len(values) < 2:
        return values[0], None
    degrees = len(values) - 1
    t = T975[degrees - 1] if degrees <= len(T975) else Z975
    return mean(values), t * stdev(values) / len(values) ** 0.5


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An accuracy in percent and half its 95 % interval: over seeds, or over images if there is one seed."""

    value: float
    half: float

    def __str__(self) -> str:
        """Return `value ± half`."""
        return f"{self.value:.1f} ± {self.half:.1f}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One classifier under one sampling on one split, over all seeds."""

    split: str
    sampling: str
    method: str
    cells: dict[str, Cell | None]
    published: Published | None

    @property
    def difference(self) -> float | None:
        """Our top-1 over all images minus the published one, points."""
        ours = self.cells["all"]
        return None if self.published is None or ours is None else ours.value - self.published.all


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The table, and the paper's question answered: is plain training with a rebalanced classifier the best?"""

    base: TrainConfig
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    finding: tuple[str, ...]
    results: Results

    @property
    def data(self) -> str:
        """The training data, in words."""
        return f"a made-up set of {self.base.dataset}'s shape" if self.base.synthetic else self.base.dataset

    @property
    def departure_note(self) -> str:
        """A sentence on the settings that are not the paper's; empty if all are."""
        found = departures(self.base)
        whose = "paper's" if self.base.dataset in PAPERS else "recipe's"
        return f"These are not the {whose} settings: {', '.join(found.values())}." if found else ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; `results` has the schema of every other command."""
        return {
            "schema": SCHEMA,
            "dataset": self.base.dataset,
            "synthetic": self.base.synthetic,
            "backbone": self.base.backbone,
            "epochs": self.base.epochs,
            "protocol": self.base.protocol,
            "departures": departures(self.base),
            "seeds": list(self.seeds),
            "rows": [dataclasses.asdict(row) | {"difference": row.difference} for row in self.rows],
            "finding": list(self.finding),
            "results": self.results.to_json()["results"],
        }

    def header(self) -> list[str]:
        """Return the columns of the table."""
        names = [name.replace("_", " ") for name in ACCURACIES]
        has_published = any(row.published for row in self.rows)
        return ["split", "sampling", "classifier", *names, *(["paper: all", "difference"] if has_published else [])]

    def lines(self) -> Iterable[list[str]]:
        """Yield the table's rows as text."""
        for row in self.rows:
            cells = [row.cells[name] for name in ACCURACIES]
            line = [row.split, row.sampling, row.method, *("-" if cell is None else str(cell) for cell in cells)]
            if len(self.header()) > len(line):
                difference = row.difference
                line += ["-" if row.published is None else f"{row.published.all:.1f}"]
                line += ["-" if difference is None else f"{difference:+z.1f}"]
            yield line

    def markdown(self) -> str:
        """Return the table as Markdown, with notes and the finding below it."""
        base, header = self.base, self.header()
        title = f"# {base.backbone} on {self.data}, {base.epochs} epochs, {base.protocol} protocol"
        kind = "half the 95 % interval over seeds" if len(self.seeds) > 1 else "half the 95 % interval over images"
        seeds = ", ".join(map(str, self.seeds))
        table = rows(header, self.lines(), left=(0, 1, 2))
        note = f"Top-1 accuracy, %, ± {kind}; seeds {seeds}. Settings of stage 2 are chosen on val."
        if len(header) > 3 + len(ACCURACIES):
            note += ' "paper: all" is the published accuracy, on a split that the paper does not always name.'
        if self.departure_note:
            note += f" {self.departure_note}"
        live = [name for name in RETRAINED if any(row.method == name for row in self.rows)]
        if base.protocol == "released" and live:
            note += f" As in the released code, {' and '.join(live)} saw images and BatchNorm drifted."
        if base.synthetic:
            note += " The images are made up: the accuracies say nothing about the real set."
        return "\n".join([title, "", *table, "", note, "", *self.finding, ""])

    def csv(self) -> str:
        """Return the table as CSV: one column for each value and each half interval."""
        text = io.StringIO()
        writer = csv.writer(text)
        halves = [column for name in ACCURACIES for column in (name, f"{name}_half95")]
        writer.writerow(["data", "split", "sampling", "method", *halves, "published_all", "difference"])
        for row in self.rows:
            cells = [row.cells[name] for name in ACCURACIES]
            numbers = [number for cell in cells for number in ((cell.value, cell.half) if cell else ("", ""))]
            published_all = "" if row.published is None else row.published.all
            writer.writerow([self.data, row.split, row.sampling, row.method, *numbers, published_all, row.difference])
        return text.getvalue()


def tabulate(results: Results, samplings: Sequence[str], base: TrainConfig) -> Iterable[Row]:
    """Yield a row for every split, sampling and classifier."""
    splits = [split for split in ("val", "test") if any(row.split == split for row in results)]
    methods = dict.fromkeys(("joint", *(row.method for row in results)))
    for split in splits:
        for sampling in samplings:
            for method in methods:
                seeds = [row for row in results if (row.split, row.sampling, row.method) == (split, sampling, method)]
                reference = published(
                    dataset="" if base.synthetic else base.dataset,
                    backbone=base.backbone,
                    epochs=base.epochs,
                    sampling=sampling,
                    method=method,
                )
                cells = {name: over_seeds_cell(seeds, name) for name in ACCURACIES}
                yield Row(split=split, sampling=sampling, method=method, cells=cells, published=reference)


def over_seeds_cell(rows: Sequence[Result], name: str) -> Cell | None:
    """Return an accuracy over the results of all seeds, or None for a group without images."""
    accuracies = [getattr(row, name) for row in rows]
    if any(accuracy is None for accuracy in accuracies):
        return None
    value, half = over_seeds([accuracy.value for accuracy in accuracies])
    return Cell(value=value, half=accuracies[0].half_width if half is None else half)


def finding(results: Results, samplings: Sequence[str]) -> tuple[str, ...]:
    """Return sentences that compare class means on test (on val where there is no test split), paired by seed.

    First, each classifier is compared with the joint one of its own run; then plain training with the rebalanced
    classifier that is best on val is compared with the joint classifier of every sampling.
    """
    plain = "instance_balanced"
    table = {(row.split, row.sampling, row.method, row.seed): row.class_mean.value for row in results}
    seeds = sorted({row.seed for row in results})
    methods = [name for name in dict.fromkeys(row.method for row in results) if name != "joint"]
    split = "test" if any(row.split == "test" for row in results) else "val"

    def values(on: str, sampling: str, method: str) -> list[float]:
        return [table[on, sampling, method, seed] for seed in seeds]

    def gain_over_joint(sampling: str, method: str, joint: str) -> tuple[float, float | None]:
        pairs = zip(values(split, sampling, method), values(split, joint, "joint"), strict=True)
        return over_seeds([ours - theirs for ours, theirs in pairs])

    lines = []
    for sampling in samplings:
        gains = (f"{method} {points(*gain_over_joint(sampling, method, sampling))}" for method in methods)
        lines.append(f"- {sampling}, points of class mean on {split} over its joint classifier: {', '.join(gains)}.")
    if plain not in samplings:
        return tuple(lines)
    best = max(methods, key=lambda method: mean(values("val", plain, method)))
    for sampling in samplings:
        gain, half = gain_over_joint(plain, best, sampling)
        lines.append(
            f"- {plain} with {best} (the best on val) less joint {sampling}: {points(gain, half)} points of class "
            f"mean on {split}{verdict(gain, half)}."
        )
    return tuple(lines)


def points(gain: float, half: float | None) -> str:
    """Return a difference with half its interval, if it has one."""
    return f"{gain:+z.1f}" + ("" if half is None else f" ± {half:.1f}")


def verdict(gain: float, half: float | None) -> str:
    """Return what a paired difference and half its interval mean; nothing for a single seed."""
    if half is None:
        return ""
    return ": no clear difference" if abs(gain) <= half else ": better" if gain > 0 else ": worse"
