"""Figures of the errors: of the smallest classes, between classes, and of the confidences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .theme import Theme, themed

# Shapes: K bins.


@themed(3.4)
def tail_errors(figure: Figure, theme: Theme, shares: Mapping[str, Mapping[str, float]], group: str) -> None:
    """Draw one row per classifier: what the images of a group of classes are predicted as.

    Args:
        figure: Where to draw.
        theme: The colours.
        shares: Classifier -> {"right", "many", "medium", "few"}, percent.
        group: The group, for the axis.
    """
    axes = figure.subplots()
    names = list(shares)
    colors = {"right": theme.line} | {key: theme.groups[key] for key in ("few", "medium", "many")}
    left = np.zeros(len(names))
    for kind, color in colors.items():
        width = np.array([shares[name][kind] for name in names])
        label = kind if kind == "right" else f"wrong: {kind}"
        axes.barh(range(len(names)), width, left=left, color=color, label=label, height=0.66)
        for row, value in enumerate(width):
            if value >= 6:
                ink = theme.ink if kind == "right" else "#ffffff"
                axes.text(left[row] + value / 2, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=8)
        left = left + width
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=theme.ink)
    axes.set(xlabel=f"images of {group}-shot classes, %", xlim=(0, 100), ylim=(len(names) - 0.5, -0.5))
    axes.grid(visible=False)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, columnspacing=1, handlelength=1
    )


@themed(3.1)
def confusions(figure: Figure, theme: Theme, tables: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw how images of classes of one size are predicted as classes of another, one panel per classifier.

    Args:
        figure: Where to draw.
        theme: The colours.
        tables: Classifier -> [K, K] percent of a row's images, largest classes first.
    """
    ramp = LinearSegmentedColormap.from_list("ramp", [theme.ground, theme.palette[0], theme.ink])
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        image = axes.imshow(table, cmap=ramp, norm=PowerNorm(0.4, 0, 100), interpolation="nearest")
        axes.set(title=name, xlabel="predicted class")
        ends = [0, len(table) - 1]
        axes.set_xticks(ends, ["head", "tail"] if len(table) > 1 else ["all"] * 2)
        axes.set_yticks(ends, ["head", "tail"] if len(table) > 1 else ["all"] * 2)
        axes.tick_params(length=0)
        axes.grid(visible=False)
    panels[0].set_ylabel("true class")
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("% of row")
    bar.outline.set_visible(False)


@themed(3.4)
def reliability(
    figure: Figure, theme: Theme, bins: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> None:
    """Draw accuracy against confidence, one line per classifier.

    Args:
        figure: Where to draw.
        theme: The colours.
        bins: Classifier -> (mean confidence, accuracy), fractions [K].
    """
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=theme.line, linewidth=1, linestyle="--")
    for color, (name, (confidence, accuracy)) in zip(theme.before_after, bins.items(), strict=False):
        axes.plot(100 * confidence, 100 * accuracy, color=color, marker="o", markersize=4, label=name)
    axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(0, 100), ylim=(0, 100))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
