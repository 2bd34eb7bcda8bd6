"""The figures of the report, drawn with matplotlib."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .evaluation import GROUP_NAMES, Result

# Okabe and Ito's palette: told apart by readers with any colour vision, on light and on dark ground
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.dpi": 150,
    "savefig.bbox": "tight",
}


def weight_norms(norms: Mapping[str, NDArray[Any]], class_counts: NDArray[Any], path: Path) -> None:
    """Draw weight norm against class rank, head to tail, one line a classifier, and the class sizes behind them.

    Args:
        norms: Classifier -> norm of every class's weights, [C]; each is scaled to mean 1, since logits have no unit.
        class_counts: [C] training images of every class.
        path: The PNG to write.
    """
    order = (-class_counts).argsort(kind="stable")
    ranks = range(1, len(order) + 1)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4))
        sizes = axes.twinx()
        sizes.fill_between(ranks, class_counts[order], color="grey", alpha=0.2, linewidth=0)
        sizes.set(ylabel="training images (grey)", ylim=(0, None))
        sizes.grid(visible=False)
        for color, (name, norm) in zip(itertools.cycle(COLORS), norms.items(), strict=False):
            axes.plot(ranks, norm[order] / norm.mean(), color=color, label=name, linewidth=1.8)
        axes.set(xlabel="class, by number of training images", ylabel="weight norm / mean", ylim=(0, None))
        axes.set_zorder(sizes.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path)
        plt.close(figure)


def accuracy_by_group(results: Mapping[str, Result], path: Path) -> None:
    """Draw bars of accuracy by shot group, one colour a classifier, with 95 % intervals.

    Args:
        results: Classifier -> its result on one split.
        path: The PNG to write.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4))
        draw_bars(axes, results)
        figure.savefig(path)
        plt.close(figure)


def draw_bars(axes: Axes, results: Mapping[str, Result]) -> None:
    """Draw the bars of ``accuracy_by_group``."""
    names = (*GROUP_NAMES, "all")
    width = 0.8 / len(results)
    for index, (color, (label, result)) in enumerate(zip(itertools.cycle(COLORS), results.items(), strict=False)):
        places, values, below, above = [], [], [], []
        for place, name in enumerate(names):
            accuracy = getattr(result, name)
            if accuracy is not None:
                places.append(place + (index - (len(results) - 1) / 2) * width)
                values.append(accuracy.value)
                below.append(accuracy.value - accuracy.ci95[0])
                above.append(accuracy.ci95[1] - accuracy.value)
        bars = axes.bar(places, values, width * 0.92, color=color, label=label)
        axes.errorbar(places, values, yerr=[below, above], fmt="none", ecolor="black", alpha=0.6, capsize=2)
        axes.bar_label(bars, fmt="%.0f", label_type="center", color="white")
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="accuracy, %", ylim=(0, 100))
    axes.legend(frameon=False, ncols=len(results), loc="upper center")
