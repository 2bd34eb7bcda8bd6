"""The classifier that a run goes by: the one that `fastlt rebalance` chose among all, or its only one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from ..config import GROUPS
from ..features.store import FeatureStore
from ..files import read_json, write_json
from ..run import Run
from ..runtime.output import quoted
from .classifier import CONFIG, classifier_name, methods_of
from .results import ACCURACIES, Accuracy, Result, plain_table

CHOICE = "chosen.json"
SCHEMA = 1
LEARNED = 99.0  # percent of train, from which its folds hardly tell methods apart
WITHOUT_EFFECT = ("device", "loader", "num_threads", "force", "select_on")
"""Settings of stage 2 that leave a classifier as it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A classifier that could have been chosen: its accuracies on val, every fold by heads chosen without it."""

    result: Result
    gain: Accuracy | None
    """How much better it is than joint by the accuracy that decides, points, image by image; None for joint."""

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as JSON values."""
        return {"result": self.result.to_json(), "gain": self.gain and self.gain.to_json()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice among the joint classifier and rebalanced ones, and what it rests on."""

    method: str
    """The classifier that was chosen, joint or a method."""
    by: str
    """The accuracy that decided."""
    on: str
    """How it was taken, as in `5 folds`."""
    weights: str
    """The hash of the run's weights."""
    settings: dict[str, Any]
    """The settings with which the chosen classifier was made."""
    candidates: list[Candidate]
    """Best first."""
    left_out: dict[str, str]
    """Method -> why it was no candidate."""
    split: str = "val"
    """Where it was taken: val, or train where there is no val."""
    schema: int = SCHEMA

    @property
    def winner(self) -> Candidate:
        """The candidate that was chosen."""
        return next(each for each in self.candidates if each.result.method == self.method)

    def to_json(self) -> dict[str, Any]:
        """Return the choice as JSON values."""
        return vars(self) | {"candidates": [candidate.to_json() for candidate in self.candidates]}

    def table(self) -> Table:
        """Return all candidates as a table for `rich`, best first."""
        table = plain_table(f"on {self.split}, {self.on}", (*ACCURACIES, "over_joint"), has_split=False)
        for candidate in self.candidates:
            row, gain = candidate.result, candidate.gain
            cells = {name: getattr(row, name) for name in ACCURACIES}
            # Half an interval only where it decides, so that the table fits 80 columns
            texts = [
                "-" if cell is None else str(cell) if name == self.by else f"{cell.value:.1f}"
                for name, cell in cells.items()
            ]
            table.add_row(row.method, *texts, "-" if gain is None else gain.signed)
        table.caption = (
            "%, each fold by heads chosen on the others, with half the 95 % interval; over joint: points of "
            f"{self.by.replace('_', ' ')} on the same images"
        )
        return table

    def reason(self) -> str:
        """Return how it was chosen and how sure that is, to follow its name."""
        by, gain = self.by.replace("_", " "), self.winner.gain
        text = f"chosen among {len(self.candidates)} classifiers by {by} on {self.split}, {self.on}"
        if gain is None:
            return text
        return f"{text} ({gain.signed} points over joint{unsure(gain)})"

    def sentence(self, *, has_test: bool) -> str:
        """Return what was chosen, and how far its figure on val may be trusted.

        Args:
            has_test: Whether the data have a test split.
        """
        value, by, gain = getattr(self.winner.result, self.by), self.by.replace("_", " "), self.winner.gain
        over = "" if gain is None else f", {gain.signed} points over joint{unsure(gain)}"
        if self.split == "train" and value.value >= LEARNED:
            why = "the network has learned these images so well that the choice says little"
        elif self.split == "train":
            why = "the network has learned these images, so the figures are mostly too high and only their order counts"
        else:
            why = f"as the best of {len(self.candidates)} that figure is slightly optimistic"
        honest = "only fresh images would tell"
        if has_test:
            honest = "the test row tells" if self.split == "train" else "the test row's is not"
        return f"chosen: {self.method}, {by} {value} % on {self.split}{over}; {why}; {honest}"


def unsure(gain: Accuracy) -> str:
    """Return what to add to a gain whose interval holds 0."""
    return ", so perhaps none" if gain.ci95[0] <= 0 else ""


def write_choice(run: Run, choice: Choice) -> None:
    """Write a choice into its run."""
    write_json(path_of(run), choice.to_json())


def path_of(run: Run) -> Path:
    """Return the path of a run's choice, which need not exist."""
    return run.path / "rebalanced" / CHOICE


def read_choice(store: FeatureStore) -> Choice | None:
    """Return the choice of a run; None if there is none, or it was made for other weights or another classifier.

    Raises:
        ValueError: The file is damaged.
    """
    path, run = path_of(store.run), store.run
    remedy = f"choose again with: fastlt rebalance {quoted(run.path)}"
    try:
        choice = read_json(path, Choice, remedy=remedy)
    except FileNotFoundError:
        return None
    names = [candidate.result.method for candidate in choice.candidates]
    if (choice.schema, choice.method in names, choice.by in GROUPS) != (SCHEMA, True, True):
        raise ValueError(
            f"{path}: got {choice.method[:40]} of {len(names)} classifiers by {choice.by[:40]}, schema "
            f"{choice.schema}; expected one of them by one of {', '.join(GROUPS)}, schema {SCHEMA}; {remedy}"
        )
    if choice.weights != store.weights_hash:
        return None
    if choice.method == "joint":
        return choice
    try:
        settings = read_json(run.method(choice.method) / CONFIG)
    except (FileNotFoundError, ValueError):
        return None
    return choice if effective(settings) == effective(choice.settings) else None


def effective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings on which a classifier depends."""
    return {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}


def chosen_method(store: FeatureStore) -> str:
    """Return the method of a run's choice; empty if there is none."""
    choice = read_choice(store)
    return "" if choice is None else choice.method


def default_method(store: FeatureStore, method: str = "") -> str:
    """Return `method`; if empty, what the run goes by: its chosen classifier, else its only rebalanced one, or joint.

    Raises:
        ValueError: The run has several rebalanced classifiers, of which none is chosen.
    """
    if name := classifier_name(store.run, method) or chosen_method(store):
        return name
    methods, run = methods_of(store.run), store.run
    if len(methods) > 1:
        raise ValueError(
            f"--method: got none, but {run.path} has several classifiers; choose one of joint, {', '.join(methods)}, "
            f"or let fastlt choose: fastlt rebalance {quoted(run.path)}"
        )
    return methods[0] if methods else "joint"
