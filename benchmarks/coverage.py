"""How often 95 % intervals cover: `python -m benchmarks.coverage` writes a JSON file and a page to benchmarks/results.

True class accuracies are fixed, hits are drawn, and the draws are counted whose interval holds the true mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import ArrayLike, NDArray

from fastlt.metrics import mean_interval, shot_groups
from fastlt.metrics.intervals import difference_interval
from fastlt.report.markdown import rows

from . import records

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats] | None

IMAGES, CLASSES, UNEVEN_CLASSES = (1, 2, 3, 5, 20), (5, 20, 100, 1000, 8142), (12, 20, 100, 1000)
DRAWS_HELD = 8_000_000  # class counts drawn at a time
ACCURACIES: dict[str, Callable[[Floats], Floats]] = {
    "0.5": lambda rank: np.full_like(rank, 0.5),
    "0.9": lambda rank: np.full_like(rank, 0.9),
    "1 to 0": lambda rank: 1 - rank,
    "0.95 to 0.35": lambda rank: 0.95 - 0.6 * rank,
    "head 0.85, tail 0.15": lambda rank: np.where(rank < 0.6, 0.85, 0.15),
    "head 0.97, tail 0.03": lambda rank: np.where(rank < 0.6, 0.97, 0.03),
}
"""True accuracies of classes, by their rank from head (0) to tail (1)."""
WINS: dict[str, Callable[[Floats], tuple[Floats, Floats]]] = {
    "A 0.24, B 0.14": lambda rank: (np.full_like(rank, 0.24), np.full_like(rank, 0.14)),
    "A 0.1, B 0.1": lambda rank: (np.full_like(rank, 0.1), np.full_like(rank, 0.1)),
    "A 0.03, B 0.01": lambda rank: (np.full_like(rank, 0.03), np.full_like(rank, 0.01)),
    "A 0 to 0.6": lambda rank: (0.6 * rank, np.zeros_like(rank)),
    "tail A 0.5, head B 0.1": lambda rank: (np.where(rank > 0.5, 0.5, 0.02), np.where(rank > 0.5, 0.02, 0.1)),
    "tail A 0.9, head B 0.9": lambda rank: (np.where(rank > 0.5, 0.9, 0.02), np.where(rank > 0.5, 0.02, 0.9)),
}
"""True shares of images that A alone and B alone have right, by rank."""
BOTH = 0.6  # of the images on which A and B agree, those that both have right
NOTES = """\
Where a cell lies outside 93 to 98 %, it is for one of two reasons:

- **Few images in all.** 5 classes with 1 image each have 6 possible outcomes; no interval can cover by exactly 95 % for
  every truth. The same holds where hardly any image tells A from B: with no such image the interval still has a width,
  so that it covers too often rather than too rarely.
- **One image a class** cannot tell classes that differ from chance. At equal accuracies coverage is about 94 %, at even
  ones from 1 to 0 about 98 %, and more where every class is nearly all right or all wrong: there the interval is too
  wide, never too narrow. Two images a class and some 100 classes are enough to see it.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Simulate the coverage of intervals."""

    repeats: int = 4000
    """Draws a cell, at most; fewer with very many classes."""
    seed: int = 0
    """Seed of the draws."""
    out: Path = records.RESULTS
    """Folder for coverage-<date>.json and .md."""


def coverage(ends: Ends, truth: float) -> float:
    """Return the share in percent of intervals that hold the truth."""
    assert ends is not None
    return round(100 * float(((ends[0] <= truth) & (truth <= ends[1])).mean()), 1)


@dataclass(frozen=True)
class Draws:
    """Repeated draws of the images of a data set whose classes have `totals` images."""

    rng: np.random.Generator
    totals: NDArray[np.int64]
    repeats: int

    def single(self, accuracy: Floats, weights: ArrayLike) -> float:
        """Return the coverage of a weighted mean of class accuracies."""
        hits = self.rng.binomial(self.totals, accuracy, (self.repeats, len(self.totals)))
        return coverage(mean_interval(hits, self.totals, weights), float(np.average(accuracy, weights=weights)))

    def paired(self, wins: Floats, losses: Floats, weights: ArrayLike) -> float:
        """Return the coverage of a weighted mean of class differences."""
        only_a = self.rng.binomial(self.totals, wins, (self.repeats, len(self.totals)))
        only_b = self.rng.binomial(self.totals - only_a, losses / (1 - wins))
        both = self.rng.binomial(self.totals - only_a - only_b, BOTH)
        ends = difference_interval(only_a, only_b, both, self.totals, weights)
        return coverage(ends, float(np.average(wins - losses, weights=weights)))


def even_cells(seed: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the coverage for each distribution, number of classes and number of images a class."""
    for num_classes in CLASSES:
        rank = (np.arange(num_classes) + 0.5) / num_classes
        for images in IMAGES:
            rng = np.random.default_rng([seed, num_classes, images])
            draws = Draws(rng, np.full(num_classes, images), min(repeats, DRAWS_HELD // num_classes))
            where = {"classes": num_classes, "images": images, "repeats": draws.repeats}
            even = np.ones(num_classes)
            for name, accuracy in ACCURACIES.items():
                yield {"kind": "single", "truth": name, **where, "coverage": draws.single(accuracy(rank), even)}
            for name, pair in WINS.items():
                yield {"kind": "paired", "truth": name, **where, "coverage": draws.paired(*pair(rank), even)}


def uneven_cells(seed: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the coverage of groups and under targets, where classes differ in their number of images."""
    for num_classes in UNEVEN_CLASSES:
        rank = (np.arange(num_classes) + 0.5) / num_classes
        train = np.round(500 * 0.004**rank).astype(np.int64)
        draws = Draws(np.random.default_rng([seed, num_classes]), np.maximum(train // 10, 1), repeats)
        sets = {"class mean": np.ones(num_classes), **shot_groups(train), "target train": train}
        for name, weights in {**sets, "target reversed": train[::-1]}.items():
            where = {"set": name, "classes": num_classes, "repeats": repeats}
            yield {"kind": "single", **where, "coverage": draws.single(0.95 - 0.7 * rank, weights)}
            yield {"kind": "paired", **where, "coverage": draws.paired(0.3 * rank, 0.1 - 0.05 * rank, weights)}


def tables(even: list[dict[str, Any]], uneven: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the tables."""
    for kind, head in (("single", "accuracy of the classes"), ("paired", "A alone right, B alone right")):
        found = {(cell["truth"], cell["classes"], cell["images"]): cell for cell in even if cell["kind"] == kind}
        lines = [
            [truth, classes, *(found[truth, classes, images]["coverage"] for images in IMAGES)]
            for truth in dict.fromkeys(truth for truth, _, _ in found)
            for classes in CLASSES
        ]
        yield from ("", *rows([head, "classes", *(f"{images} a class" for images in IMAGES)], lines))
    cells = {(cell["set"], cell["classes"], cell["kind"]): cell["coverage"] for cell in uneven}
    heads = [(classes, kind) for classes in UNEVEN_CLASSES for kind in ("single", "paired")]
    lines = [[name, *(cells[name, *head] for head in heads)] for name in dict.fromkeys(name for name, _, _ in cells)]
    yield from (
        "",
        "Uneven classes: 500 to 2 training images, a tenth of them (at least 1) in val; accuracy 0.95 to 0.25.",
        "",
        *rows(["mean over", *(f"{classes} classes, {kind}" for classes, kind in heads)], lines),
    )


def main() -> None:
    """Simulate and write."""
    arguments = tyro.cli(Arguments)
    even = list(even_cells(arguments.seed, arguments.repeats))
    uneven = list(uneven_cells(arguments.seed, arguments.repeats))
    text = (
        f"`python -m benchmarks.coverage --seed {arguments.seed}`, NumPy {np.__version__}: the share in percent of "
        f"{arguments.repeats} simulated draws (fewer with 8142 classes) whose 95 % interval holds the true mean over "
        f"classes. Standard error 0.3, with 8142 classes 0.7.\n"
    )
    page = "\n".join([text, NOTES, *tables(even, uneven)]) + "\n"
    record = {"seed": arguments.seed, "numpy": np.__version__, "even": even, "uneven": uneven}
    records.write("coverage", time.strftime("%Y-%m-%d"), record, page, folder=arguments.out)


if __name__ == "__main__":
    main()
