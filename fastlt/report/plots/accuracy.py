"""Figures of accuracy: by shot group, against tau, by class size, and over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from ...config import SHOT_GROUPS
from ...evaluation.results import Result
from .theme import Theme, themed

# Shapes: C classes, T taus.

NUM_BINS = 8


@themed(3.9)
def accuracy_by_group(figure: Figure, theme: Theme, results: Mapping[str, Result]) -> None:
    """Draw one row per classifier: a dot with a 95 % interval for every shot group and for all images.

    Args:
        figure: Where to draw.
        theme: The colours.
        results: Classifier -> its result on one split.
    """
    axes = figure.subplots()
    shown = (*SHOT_GROUPS, "all")
    for offset, name in enumerate(shown):
        points = [
            (row + (offset - 1.5) * 0.14, accuracy)
            for row, result in enumerate(results.values())
            if (accuracy := getattr(result, name)) is not None
        ]
        if points:
            rows, values = [row for row, _ in points], [accuracy.value for _, accuracy in points]
            reach = [
                [max(accuracy.value - accuracy.ci95[0], 0) for _, accuracy in points],
                [max(accuracy.ci95[1] - accuracy.value, 0) for _, accuracy in points],
            ]
            marker = "D" if name == "all" else "o"
            axes.errorbar(
                values, rows, xerr=reach, fmt=marker, color=theme.groups[name], label=name, markersize=4, elinewidth=1.2
            )
    axes.set_yticks(range(len(results)), list(results))
    axes.tick_params(axis="y", length=0, labelcolor=theme.ink)
    axes.set(xlabel="accuracy, %", ylim=(len(results) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(shown))


@themed(3.5)
def accuracy_by_tau(
    figure: Figure,
    theme: Theme,
    taus: NDArray[np.float64],
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]],
    best: float,
) -> None:
    """Draw accuracy against tau with bands.

    Args:
        figure: Where to draw.
        theme: The colours.
        taus: [T].
        curves: Group -> (accuracy, lower, upper), fractions [T].
        best: The tau with the best accuracy over all images.
    """
    axes = figure.subplots()
    for name, (value, lower, upper) in curves.items():
        color = theme.groups[name]
        axes.fill_between(taus, 100 * lower, 100 * upper, color=color, alpha=0.18, linewidth=0)
        axes.plot(taus, 100 * value, color=color, label=name, linewidth=1.6)
    axes.axvline(best, color=theme.soft, linewidth=1, linestyle="--")
    axes.annotate(
        f"best for all: {best:.2f}", (best, 0.02), (4, 0),
        xycoords=("data", "axes fraction"), textcoords="offset points",
        color=theme.soft,
    )  # fmt: skip
    axes.set(xlabel="τ", ylabel="accuracy, %", xlim=(taus[0], taus[-1]))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(curves))


@themed(3.5)
def accuracy_by_class_size(
    figure: Figure, theme: Theme, class_counts: NDArray[Any], accuracies: Mapping[str, NDArray[np.float64]]
) -> None:
    """Draw each class's accuracy against its number of training images, and means over classes of similar size.

    Args:
        figure: Where to draw.
        theme: The colours.
        class_counts: [C] training images.
        accuracies: Two classifiers, before and after -> fractions [C], NaN for a class without images.
    """
    axes = figure.subplots()
    sizes = np.maximum(class_counts, 1)
    order = np.argsort(sizes, kind="stable")
    for color, (name, values) in zip(theme.before_after, accuracies.items(), strict=False):
        seen = order[np.isfinite(values[order])]
        alpha = float(np.clip(60 / max(len(seen), 1), 0.05, 0.5))
        axes.scatter(sizes[seen], 100 * values[seen], s=9, color=color, alpha=alpha, linewidth=0, rasterized=True)
        bins = np.array_split(seen, min(NUM_BINS, len(seen)))
        means = [(np.exp(np.log(sizes[part]).mean()), 100 * values[part].mean()) for part in bins]
        axes.plot(*zip(*means, strict=True), color=color, marker="o", markersize=4, label=name)
    axes.set(xscale="log", xlabel="training images of the class", ylabel="accuracy, %", ylim=(-3, 103))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))  # powers of ten would be set as formulas
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)


@themed(4.4)
def training(figure: Figure, theme: Theme, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw the loss, and the accuracies on val, over the epochs of stage 1.

    Args:
        figure: Where to draw.
        theme: The colours.
        records: One record per epoch: `epoch`, `loss`, `val`.
    """
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 3))
    marker = "o" if len(records) == 1 else ""
    losses = [(record["epoch"], record["loss"]) for record in records if record.get("loss") is not None]
    if losses:
        above.plot(*zip(*losses, strict=True), color=theme.ink, marker=marker)
    above.set(ylabel="training loss", ylim=(0, None))
    for name in (*SHOT_GROUPS, "all"):
        points = [
            (record["epoch"], record["val"][name])
            for record in records
            if record.get("val") and record["val"].get(name) is not None
        ]
        if points:
            below.plot(*zip(*points, strict=True), color=theme.groups[name], label=name, marker=marker)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.set(xlabel="epoch", ylabel="accuracy on val, %", ylim=(0, 100))
    handles = below.get_legend_handles_labels()
    if handles[0]:
        figure.legend(*handles, loc="outside upper center", ncols=4)
