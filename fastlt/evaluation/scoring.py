"""One way to evaluate: features and a linear head in; many, medium, few and all with 95 % intervals out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..config import EvaluateConfig
from ..features.store import FeatureStore
from ..files import write_json
from ..metrics import (
    class_hits,
    class_mean_intervals,
    macro_f1,
    paired_difference,
    shot_groups,
    weighted_class_accuracy,
    wilson_interval,
)
from ..run import Run
from ..runtime.device import resolve_device
from .calibration import calibration_errors
from .classifier import Classifier, methods_of, open_classifier
from .per_class import class_rows, write_class_table
from .prior import read_target
from .results import ACCURACIES, GROUP_NAMES, SCHEMA, Accuracy, Comparison, Result, Results, percent
from .target import adjusted_to_target, check_without_target, target_of

__all__ = [
    "ACCURACIES",
    "GROUP_NAMES",
    "SCHEMA",
    "Accuracy",
    "Comparison",
    "Result",
    "Results",
    "evaluate",
    "percent",
    "reported_splits",
    "score",
]

# Shapes: N samples, C classes.


def score(classifier: Classifier, split: str) -> Result:
    """Evaluate a classifier of a run on a split."""
    run = classifier.store.run
    config, counts = run.config, np.asarray(run.data["class_counts"])
    said = classifier.predictions(split)
    hits, totals = class_hits(said.right, said.labels, len(counts))
    # A target moves the confidences to frequencies that the split does not have
    errors = None
    if "target" not in classifier.params:
        found = calibration_errors(said, shot_groups(counts))
        errors = {name: None if error is None else 100 * error for name, error in found.items()}
    return Result(
        run=str(run.path),
        dataset=config.dataset,
        backbone=config.backbone,
        sampling=config.sampling,
        seed=config.seed,
        method=classifier.method,
        params=classifier.params,
        split=split,
        selected_on=classifier.selected_on,
        checkpoint=str(classifier.path),
        **accuracies(hits, totals, counts),  # type: ignore[arg-type]  # only a group may be None
        target=None if classifier.prior is None else accuracy_under(hits, totals, classifier.prior),
        ece=errors,
        macro_f1=100 * macro_f1(said.classes, said.labels, len(counts)),
        nll=None if errors is None else -float(said.log_likelihoods.mean()),
        selection=classifier.selection,
        config=config.fingerprint(),
    )


def accuracies(
    hits: NDArray[np.int64], totals: NDArray[np.int64], class_counts: NDArray[np.int64]
) -> dict[str, Accuracy | None]:
    """Return the accuracy of all images, the class mean and that of each shot group; None for a group without images.

    Args:
        hits: [C] images of every class that are classified right.
        totals: [C] images of every class; some class has one.
        class_counts: [C] training images of every class.
    """
    masks = {"class_mean": np.ones(len(class_counts), dtype=np.bool_), **shot_groups(class_counts)}
    num_hits, num_images = int(hits.sum()), int(totals.sum())
    found: dict[str, Accuracy | None] = {
        "all": Accuracy(
            value=100 * num_hits / num_images, ci95=percent(wilson_interval(num_hits, num_images)), n=num_images
        )
    }
    for name, interval in class_mean_intervals(hits, totals, masks).items():
        seen = masks[name] & (totals > 0)
        found[name] = interval and Accuracy(
            value=100 * float((hits[seen] / totals[seen]).mean()), ci95=percent(interval), n=int(totals[seen].sum())
        )
    return found


def accuracy_under(hits: NDArray[np.int64], totals: NDArray[np.int64], prior: NDArray[np.float64]) -> Accuracy | None:
    """Return the accuracy where classes come as often as `prior` says; None if none of them has images."""
    found = weighted_class_accuracy(hits, totals, prior)
    if found is None:
        return None
    return Accuracy(value=100 * found[0], ci95=percent(found[1]), n=int(totals[prior > 0].sum()))


def reported_splits(store: FeatureStore, split: str = "all") -> list[str]:
    """Return the splits that tables report: val and, where there is one, test."""
    if split != "all":
        return [split]
    return [name for name in ("val", "test") if name in store.names]


def evaluate(run: Run, *, config: EvaluateConfig | None = None) -> Results:
    """Report the accuracy of a run's classifiers, joint or rebalanced.

    Writes `evaluation.json` and the per-class tables beside each classifier; under a target, nothing.

    Args:
        run: The run.
        config: Which classifiers, which splits, which device.

    Raises:
        ValueError, FileNotFoundError: There is no such classifier or split, or a checkpoint cannot be read; or the
            target does not fit.
    """
    config = config or EvaluateConfig()
    store = FeatureStore(
        run, device=resolve_device(config.device), loader=config.loader, num_threads=config.num_threads
    )
    splits = reported_splits(store, config.split)
    names = ["joint", *methods_of(run)] if config.method == "all" else [config.method]
    against = config.against or "joint"
    opened = {name: open_classifier(store, name) for name in names}
    if against not in opened:
        opened[against] = open_classifier(store, against, flag="--against")
    if config.target:
        for each in opened.values():
            check_without_target(each, config.target)
        target = read_target(config.target, class_names=run.data["class_names"], class_counts=run.data["class_counts"])
        prior = target_of(opened[names[0]], target)
        opened = {name: adjusted_to_target(each, config.target, prior) for name, each in opened.items()}
    chosen = [opened[name] for name in names]
    rows = [score(each, split) for split in splits for each in chosen]
    others = [each for each in chosen if each.method != against]
    results = Results(tuple(rows), tuple(compare(others, opened[against], splits)))
    if not config.target:
        for each in chosen:
            write(each, results, splits)
    return results


def write(classifier: Classifier, results: Results, splits: Iterable[str]) -> None:
    """Write the results and the per-class tables of one classifier beside it."""
    run, method = classifier.store.run, classifier.method
    folder = run.method(method)
    own = Results(
        tuple(row for row in results if row.method == method),
        tuple(each for each in results.comparisons if each.method == method),
    )
    write_json(folder / "evaluation.json", own.to_json())
    for split in splits:
        said = classifier.predictions(split)
        rows = class_rows(
            said.classes,
            said.labels,
            class_names=run.data["class_names"],
            class_counts=run.data["class_counts"],
            norms=classifier.head.norms().cpu().numpy(),
        )
        write_class_table(folder, split, rows)


def compare(classifiers: Iterable[Classifier], against: Classifier, splits: Sequence[str]) -> Iterator[Comparison]:
    """Compare classifiers with another one, image by image."""
    counts = np.asarray(against.store.run.data["class_counts"])
    masks = {"class_mean": np.ones(len(counts), dtype=np.bool_), **shot_groups(counts)}
    for split, classifier in itertools.product(splits, classifiers):
        ours, theirs = classifier.predictions(split), against.predictions(split)
        differences = paired_difference(ours.right, theirs.right, ours.labels, masks)
        num_images = {key: int(mask[ours.labels].sum()) for key, mask in masks.items()} | {"all": len(ours.labels)}
        yield Comparison(
            method=classifier.method,
            against=against.method,
            split=split,
            differences={
                key: value and Accuracy(value=100 * value[0], ci95=percent(value[1]), n=num_images[key])
                for key, value in differences.items()
            },
        )
