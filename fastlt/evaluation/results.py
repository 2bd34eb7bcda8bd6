"""Accuracies of several classifiers with their intervals: as values, as JSON, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..config import METHODS, SHOT_GROUPS
from ..files import read_json

SCHEMA = 1
ACCURACIES = (*SHOT_GROUPS, "class_mean", "all")
DETAILS = ("f1", "ece", *SHOT_GROUPS, "nll")
DETAILS_NOTE = (
    "f1: macro F1, %; ece: calibration error in points, 15 bins of equal mass, then by group; "
    "nll: mean negative log likelihood, nats"
)
LEARNED_NOTE = "folds of images that the network has learned, mostly too high: only their order counts"
"""What to say of accuracies on train."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """An accuracy in percent, its 95 % interval, and the number of images behind it."""

    value: float
    ci95: tuple[float, float]
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"value": self.value, "ci95": list(self.ci95), "n": self.n}

    @classmethod
    def from_fractions(cls, value: float, interval: tuple[float, float], n: int) -> Accuracy:
        """Return an accuracy, or a difference of two, from fractions."""
        low, high = min(interval[0], value), max(interval[1], value)  # whose rounding may part them
        return cls(value=100 * value, ci95=(100 * low, 100 * high), n=n)

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval."""
        return (self.ci95[1] - self.ci95[0]) / 2

    @property
    def signed(self) -> str:
        """A difference with its sign, and half its interval; one that rounds to 0 is +0.0."""
        return f"{self.value:+z.1f}±{self.half_width:.1f}"

    def __str__(self) -> str:
        """Return `value±half the interval`, short enough for five of them and a name to fit 80 columns."""
        return f"{self.value:.1f}±{self.half_width:.1f}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The accuracy of one classifier on one split.

    `all` is top-1 over images; `class_mean` and the shot groups are means of class accuracies. A group without
    images is None.
    """

    run: str
    dataset: str
    backbone: str
    sampling: str
    seed: int
    method: str
    params: dict[str, Any]
    split: str
    selected_on: str | None
    checkpoint: str
    all: Accuracy
    class_mean: Accuracy
    many: Accuracy | None
    medium: Accuracy | None
    few: Accuracy | None
    target: Accuracy | None = None
    """Accuracy under the class frequencies of `params["target"]`."""
    ece: dict[str, float | None] | None = None
    """Expected calibration error in percent, of all images and by group; None under a target."""
    macro_f1: float | None = None
    """Mean F1 score of the classes that have images, in percent."""
    nll: float | None = None
    """Mean negative log likelihood of the labels, in nats."""
    selection: str | None = None
    """What was maximised, and where, as in `class_mean on val`; None if nothing was chosen."""
    config: str | None = None
    """Fingerprint of stage 1's settings."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as scripts read it."""
        return {key: value.to_json() if isinstance(value, Accuracy) else value for key, value in vars(self).items()}

    def details(self) -> list[str]:
        """Return the figures that `DETAILS` names, as text."""
        errors = self.ece or {}
        cells = [self.macro_f1, *(errors.get(name) for name in ("all", *SHOT_GROUPS))]
        texts = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
        return [*texts, "-" if self.nll is None else f"{self.nll:.3f}"]

    @property
    def label(self) -> str:
        """The classifier's name and settings, for tables."""
        # A temperature changes confidences, not the accuracies beside the name
        shown = {key: value for key, value in self.params.items() if key != "temperature"}
        params = ", ".join(
            key if value is True else f"{key} {f'{value:.3g}' if isinstance(value, float) else value}"
            for key, value in shown.items()
        )
        if list(shown) == [self.method]:
            return params
        return f"{self.method} ({params})" if params else self.method


def plain_name(method: str, text: str | None = None) -> str:
    """Return a method's name, or a text that says more of it, in words; one of the user's own is as they gave it."""
    text = method if text is None else text
    return text.replace("_", " ") if method in METHODS else text


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much better one classifier is than another on the same images, in points with 95 % intervals."""

    method: str
    against: str
    split: str
    differences: dict[str, Accuracy | None]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as scripts read it."""
        differences = {name: value and value.to_json() for name, value in self.differences.items()}
        return {"method": self.method, "against": self.against, "split": self.split, **differences}


class StoredResults(TypedDict):
    """Results on disk, without comparisons."""

    schema: int
    results: list[Result]


@dataclass(frozen=True)
class Results:
    """Results in the order in which they are printed; iterating yields each `Result`.

    Example:
        >>> from fastlt import Results
        >>> Results(()).to_json()
        {'schema': 1, 'results': []}
    """

    rows: tuple[Result, ...]
    comparisons: tuple[Comparison, ...] = ()

    def __iter__(self) -> Iterator[Result]:
        """Iterate over the results."""
        return iter(self.rows)

    def find(self, method: str, split: str) -> Result:
        """Return the result of a method on a split.

        Args:
            method: `joint` or a rebalancing method.
            split: val or test.

        Raises:
            KeyError: There is no such result.
        """
        for row in self.rows:
            if (row.method, row.split) == (method, split):
                return row
        raise KeyError((method, split))

    def selections(self, *, plain: bool = False) -> Iterator[str]:
        """Yield a phrase for each accuracy by which settings were chosen, naming the methods.

        Args:
            plain: Whether our own names are put in words.
        """
        methods: dict[str, list[str]] = {}
        for method, selection in {row.method: row.selection or row.selected_on for row in self.rows}.items():
            if selection:
                methods.setdefault(selection, []).append(method)
        for selection, names in methods.items():
            if plain:
                selection, names = selection.replace("_", " "), [plain_name(name) for name in names]
            yield f"chosen by {selection}: {', '.join(names)}"

    def to_json(self) -> dict[str, Any]:
        """Return the results in the published schema."""
        values = {"schema": SCHEMA, "results": [row.to_json() for row in self.rows]}
        comparisons = [comparison.to_json() for comparison in self.comparisons]
        return values | ({"comparisons": comparisons} if comparisons else {})

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read the results, without the comparisons, from a file in the published schema.

        Args:
            path: results.json or evaluation.json.

        Returns:
            The results, in the order of the file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, or in another schema.
        """
        remedy = "make it again with fastlt rebalance or evaluate"
        stored = read_json(path, StoredResults, remedy=remedy)
        if stored["schema"] != SCHEMA:
            raise ValueError(f"{path}: got schema {stored['schema']}; expected {SCHEMA}; {remedy}")
        return cls(tuple(stored["results"]))

    def table(self, title: str) -> Table:
        """Return the accuracies in percent as a table for `rich`, one row a classifier and split.

        Args:
            title: The table's title.
        """
        table = plain_table(title, ACCURACIES)
        previous = None
        for row in self.rows:
            if previous is not None and row.split != previous:
                table.add_section()
            previous = row.split
            cells = [getattr(row, name) for name in ACCURACIES]
            table.add_row(row.split, row.label, *("-" if cell is None else str(cell) for cell in cells))
        notes = ["top-1 accuracy, %, with half the 95 % interval", *self.selections()]
        splits = {row.split for row in self.rows}
        if "val" in splits and "test" not in splits and any(row.selected_on == "val" for row in self.rows):
            notes.append("val chose the settings, so its accuracies are optimistic (--select-on folds)")
        if "train" in splits:
            notes.append(f"train: {LEARNED_NOTE}")
        table.caption = "; ".join(notes)
        return table

    def details_table(self) -> Table:
        """Return F1, calibration by group, likelihood and the accuracy under a target as a table for `rich`."""
        targeted = any(row.target for row in self.rows)
        table = plain_table("", (*DETAILS, "target") if targeted else DETAILS)
        for row in self.rows:
            table.add_row(row.split, row.method, *row.details(), *([str(row.target or "-")] if targeted else []))
        table.caption = DETAILS_NOTE
        if targeted:
            table.caption += "; target: accuracy under the class frequencies of --target"
        return table

    def comparison_table(self) -> Table:
        """Return the comparisons, in points, as a table for `rich`."""
        (against,) = {comparison.against for comparison in self.comparisons}
        table = plain_table(f"better than {against} by", ACCURACIES)
        for comparison in self.comparisons:
            cells = [comparison.differences.get(name) for name in ACCURACIES]
            texts = ("-" if cell is None else cell.signed for cell in cells)
            table.add_row(comparison.split, comparison.method, *texts)
        table.caption = "points on the same images, with half the paired 95 % interval"
        return table


def plain_table(title: str, columns: Iterable[str], *, has_split: bool = True) -> Table:
    """Return an empty table with the columns split (if asked for), classifier and numbers."""
    table = Table(
        title=title or None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    if has_split:
        table.add_column("split", no_wrap=True)
    table.add_column("classifier", overflow="fold")  # a long name wraps; a number is never cut
    for name in columns:
        table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
    return table
