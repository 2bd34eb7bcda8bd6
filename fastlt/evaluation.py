"""One way to evaluate: features and a linear head in; many, medium, few and all with 95 % intervals out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from . import checkpoint, ops
from .config import EvaluateConfig
from .features import FeatureStore
from .hardware import resolve_device
from .metrics import class_hits, class_mean_intervals, shot_groups, wilson_interval
from .models import LinearHead
from .run import Run

SCHEMA = 1
GROUP_NAMES = ("many", "medium", "few")
ACCURACIES = (*GROUP_NAMES, "class_mean", "all")


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
    def from_json(cls, values: dict[str, Any]) -> Accuracy:
        """Rebuild an accuracy from ``to_json``'s values."""
        return cls(value=values["value"], ci95=tuple(values["ci95"]), n=values["n"])

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval."""
        return (self.ci95[1] - self.ci95[0]) / 2

    def __str__(self) -> str:
        """Return ``value ± half the interval``."""
        return f"{self.value:.1f} ± {self.half_width:.1f}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The accuracy of one classifier on one split.

    ``all`` is top-1 over images; ``class_mean`` and the shot groups are means of class accuracies. A group without
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

    def to_json(self) -> dict[str, Any]:
        """Return the result as scripts read it."""
        return {key: value.to_json() if isinstance(value, Accuracy) else value for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Result:
        """Rebuild a result from ``to_json``'s values."""
        accuracies = {key: values[key] and Accuracy.from_json(values[key]) for key in ACCURACIES}
        return cls(**{**values, **accuracies})

    @property
    def label(self) -> str:
        """The classifier's name and settings, for tables."""
        # A temperature changes confidences, not the accuracies that stand beside this
        told = {key: value for key, value in self.params.items() if key != "temperature"}
        params = ", ".join(
            f"{key} {value if isinstance(value, str) else f'{value:.3g}'}" for key, value in told.items()
        )
        if list(told) == [self.method]:
            return params
        return f"{self.method} ({params})" if params else self.method


@dataclass(frozen=True)
class Results:
    """Results in the order in which they are printed."""

    rows: tuple[Result, ...]

    def __iter__(self) -> Iterator[Result]:
        """Iterate over the results."""
        return iter(self.rows)

    def find(self, method: str, split: str) -> Result:
        """Return the result of a method on a split.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if (row.method, row.split) == (method, split):
                return row
        raise KeyError((method, split))

    def to_json(self) -> dict[str, Any]:
        """Return the results in the published schema."""
        return {"schema": SCHEMA, "results": [row.to_json() for row in self.rows]}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read results that were written in the published schema."""
        return cls(tuple(Result.from_json(row) for row in checkpoint.read_json(path)["results"]))

    def table(self, title: str) -> Table:
        """Return the results as a table: one row a classifier and split."""
        table = Table(
            title=title,
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for name in ("split", "classifier"):
            table.add_column(name, no_wrap=True)
        for name in ACCURACIES:
            table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
        previous = None
        for row in self.rows:
            if previous is not None and row.split != previous:
                table.add_section()
            previous = row.split
            cells = [getattr(row, name) for name in ACCURACIES]
            table.add_row(row.split, row.label, *("-" if cell is None else str(cell) for cell in cells))
        chosen = {f"{row.method} chosen on {row.selected_on}" for row in self.rows if row.selected_on}
        intervals = "top-1 accuracy, %, with half the 95 % interval"
        notes = [intervals, *sorted(chosen)]
        splits = {row.split for row in self.rows}
        if "val" in splits and "test" not in splits and any(row.selected_on == "val" for row in self.rows):
            notes.append("no test split here: val both chose and is reported, so it flatters (--select-on folds)")
        table.caption = "; ".join(notes)
        return table


def score(
    head: LinearHead,
    store: FeatureStore,
    split: str,
    *,
    method: str,
    params: dict[str, Any],
    selected_on: str | None,
    path: Path,
) -> Result:
    """Evaluate a head on a split of a run.

    Args:
        head: The classifier.
        store: The run's features.
        split: train, val or test.
        method: Name of the classifier: joint, tau, ...
        params: What it was made with.
        selected_on: The split on which ``params`` were chosen, or None.
        path: The checkpoint that holds it.
    """
    run, stored = store.run, store.split(split)
    features, labels = stored.tensors(store.device)
    head = head.to(store.device)
    with torch.inference_mode():
        ranks = ops.label_rank(features, head.weight, labels, bias=head.bias)
    counts = np.asarray(run.data["class_counts"])
    hits, totals = class_hits((ranks == 0).cpu().numpy(), stored.labels, len(counts))
    groups = shot_groups(counts)
    masks = {"class_mean": np.ones(len(counts), dtype=bool), **groups}
    intervals = class_mean_intervals(hits, totals, masks)

    def class_mean(name: str) -> Accuracy | None:
        interval, seen = intervals[name], masks[name] & (totals > 0)
        if interval is None:
            return None
        value = float((hits[seen] / totals[seen]).mean())
        return Accuracy(value=100 * value, ci95=percent(interval), n=int(totals[seen].sum()))

    mean = class_mean("class_mean")
    assert mean is not None  # class_hits refuses an empty split
    num_hits, num_images = int(hits.sum()), int(totals.sum())
    config = run.config
    return Result(
        run=str(run.path),
        dataset=config.dataset,
        backbone=config.backbone,
        sampling=config.sampling,
        seed=config.seed,
        method=method,
        params=params,
        split=split,
        selected_on=selected_on,
        checkpoint=str(path),
        all=Accuracy(
            value=100 * num_hits / num_images, ci95=percent(wilson_interval(num_hits, num_images)), n=num_images
        ),
        class_mean=mean,
        **{name: class_mean(name) for name in GROUP_NAMES},
    )


def percent(interval: tuple[float, float]) -> tuple[float, float]:
    """Return an interval of fractions in percent."""
    return 100 * interval[0], 100 * interval[1]


def score_joint(store: FeatureStore, splits: Iterable[str]) -> list[Result]:
    """Evaluate the run's own head, as stage 1 left it."""
    return [
        score(store.head, store, split, method="joint", params={}, selected_on=None, path=store.checkpoint)
        for split in splits
    ]


def reported_splits(store: FeatureStore, split: str = "all") -> list[str]:
    """Return the splits that tables report: val and, where there is one, test."""
    if split != "all":
        return [split]
    return [name for name in ("val", "test") if name in store.names]


def evaluate(run: Run, *, config: EvaluateConfig | None = None) -> Results:
    """Report the accuracy of a run's classifier, joint or rebalanced, and write it to the run.

    Args:
        run: The run.
        config: Which classifier, which splits, which device.

    Raises:
        ValueError, FileNotFoundError: There is no such classifier or split, or a checkpoint cannot be read.
    """
    config = config or EvaluateConfig()
    store = FeatureStore(
        run, device=resolve_device(config.device), loader=config.loader, num_threads=config.num_threads
    )
    splits = reported_splits(store, config.split)
    if config.method == "joint":
        results = Results(tuple(score_joint(store, splits)))
    else:
        results = Results(tuple(score_rebalanced(store, config.method, splits)))
    checkpoint.write_json(run.method(config.method) / "evaluation.json", results.to_json())
    return results


def score_rebalanced(store: FeatureStore, method: str, splits: Iterable[str]) -> list[Result]:
    """Evaluate a rebalanced classifier of the run from its checkpoint.

    Raises:
        FileNotFoundError: The run has none by that method.
        ValueError: It was made from other weights, or cannot be read.
    """
    folder = store.run.method(method)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"--method: {store.run.path} has no {method} classifier yet; make it with: "
            f"fastlt rebalance {store.run.path} --method {method}"
        )
    tensors, metadata = checkpoint.load(path)
    if metadata.get("weights") != store.weights_hash:
        raise ValueError(
            f"{path}: made from other weights than {store.checkpoint}; make it anew with: "
            f"fastlt rebalance {store.run.path} --method {method}"
        )
    if "fc.weight" not in tensors:
        raise ValueError(f"{path}: the checkpoint of another network: it has no fc.weight")
    head = LinearHead(tensors["fc.weight"], tensors.get("fc.bias"))
    store = store.under(tensors, method)  # live training and --reestimate-batch-norm change the network below the head
    return [
        score(
            head,
            store,
            split,
            method=method,
            params=metadata["params"],
            selected_on=metadata["selected_on"],
            path=path,
        )
        for split in splits
    ]
