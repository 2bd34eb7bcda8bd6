"""Figures of the classifiers themselves: lengths of weight vectors, and regions of a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .theme import Theme, themed

# Shapes: C classes, N points.

MAX_POINTS = 150  # per line
GRID = 240
MARKERS = ("o", "s", "^")


@themed(4.0)
def weight_norms(figure: Figure, theme: Theme, norms: Mapping[str, NDArray[Any]], class_counts: NDArray[Any]) -> None:
    """Draw weight norm against class rank, head to tail, one line per classifier, and the class sizes behind them.

    Args:
        figure: Where to draw.
        theme: The colours.
        norms: Classifier -> norm of every class's weights, [C]; each is scaled to mean 1, since logits have no unit.
        class_counts: [C] training images of every class.
    """
    axes = figure.subplots()
    order = np.argsort(-class_counts, kind="stable")
    ranks = np.arange(1, len(order) + 1)
    sizes = axes.twinx()
    sizes.fill_between(ranks, class_counts[order], color=theme.soft, alpha=0.18, linewidth=0, rasterized=True)
    sizes.set(ylabel="training images (shaded)", ylim=(0, None))
    sizes.grid(visible=False)
    parts = np.array_split(np.arange(len(order)), min(MAX_POINTS, len(order)))
    places = [ranks[part].mean() for part in parts]
    for name, (color, style) in theme.lines(norms).items():
        scaled = norms[name][order] / (norms[name].mean() or 1)
        values = [scaled[part].mean() for part in parts]
        axes.plot(
            places,
            values,
            color=color,
            linestyle=style,
            label=name,
            linewidth=2.4 if name == "joint" else 1.3,
        )
    axes.set(xlabel="class, by number of training images", ylabel="weight norm / mean", ylim=(0, None))
    axes.set_zorder(sizes.get_zorder() + 1)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Three classes in the plane of a classifier: logits = points @ weight.T + bias."""

    title: str
    points: NDArray[np.float64]
    """[N, 2]"""
    labels: NDArray[np.int64]
    """[N], 0 to 2."""
    weight: NDArray[np.float64]
    """[3, 2]"""
    bias: NDArray[np.float64]
    """[3]"""


@themed(3.4)
def decision_regions(figure: Figure, theme: Theme, planes: Sequence[Plane], names: Sequence[str]) -> None:
    """Draw the regions in which three classes win, and images of these classes as points, one panel per classifier.

    Args:
        figure: Where to draw.
        theme: The colours.
        planes: One per classifier.
        names: The three classes, largest first.
    """
    colors = theme.groups["many"], theme.groups["medium"], theme.groups["few"]
    panels = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, plane in zip(panels, planes, strict=True):
        centre = (plane.points.max(0) + plane.points.min(0)) / 2
        half = max(float(np.ptp(plane.points, axis=0).max()) / 2 * 1.15, 1e-6)
        steps = [np.linspace(middle - half, middle + half, GRID) for middle in centre]
        grid = np.stack(np.meshgrid(*steps), axis=-1)
        winners = (grid @ plane.weight.T + plane.bias).argmax(-1)
        axes.imshow(
            winners,
            origin="lower",
            extent=(steps[0][0], steps[0][-1], steps[1][0], steps[1][-1]),
            cmap=ListedColormap(colors),
            vmin=0,
            vmax=2,
            alpha=0.22,
            interpolation="nearest",
        )
        for index, (color, marker) in enumerate(zip(colors, MARKERS, strict=True)):
            x, y = plane.points[plane.labels == index].T
            axes.scatter(
                x, y, s=16, color=color, marker=marker, edgecolor=theme.ground, linewidth=0.4, label=names[index]
            )
        axes.set(title=plane.title, xticks=[], yticks=[])
        axes.grid(visible=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
