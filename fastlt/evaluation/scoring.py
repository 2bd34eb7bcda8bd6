"""Accuracies of a run's classifiers: many, medium, few, class mean and all, with 95 % intervals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..config import EvaluateConfig
from ..data.inspection.identity import warn_of_overlap
from ..features.store import FeatureStore
from ..files import replacing_set, write_json
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
from ..runtime.log import log, name_some
from .calibration import calibration_errors
from .choice import chosen_method
from .classifier import (
    EVALUATED,
    EVALUATION,
    RESULTS,
    Classifier,
    classifier_name,
    methods_of,
    open_classifier,
    version_of,
)
from .per_class import class_rows, write_class_table
from .prior import read_target
from .results import Accuracy, Comparison, Result, Results
from .target import adjust_to_target, check_without_target, target_frequencies

# Shapes: N samples, C classes.


def score(classifier: Classifier, split: str) -> Result:
    """Evaluate a classifier of a run on a split."""
    run = classifier.store.run
    config, counts = run.config, np.asarray(run.data["class_counts"])
    predictions = classifier.predictions(split)
    hits, totals = class_hits(predictions.right, predictions.labels, len(counts))
    # Under a target, confidences are calibrated for class frequencies that the split does not have
    errors = None
    if "target" not in classifier.params:
        fractions = calibration_errors(predictions, shot_groups(counts))
        errors = {name: None if error is None else 100 * error for name, error in fractions.items()}
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
        macro_f1=100 * macro_f1(predictions.classes, predictions.labels, len(counts)),
        nll=None if errors is None else -float(predictions.log_likelihoods.mean()),
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
    masks = class_masks(class_counts)
    num_hits, num_images = int(hits.sum()), int(totals.sum())
    overall = Accuracy.from_fractions(num_hits / num_images, wilson_interval(num_hits, num_images), num_images)
    # 1769 of 2000 are 88.45 %; computed by way of a fraction, that becomes 88.4499... and prints as 88.4
    values: dict[str, Accuracy | None] = {"all": dataclasses.replace(overall, value=100 * num_hits / num_images)}
    for name, interval in class_mean_intervals(hits, totals, masks).items():
        seen = masks[name] & (totals > 0)
        values[name] = interval and Accuracy.from_fractions(
            float((hits[seen] / totals[seen]).mean()), interval, int(totals[seen].sum())
        )
    return values


def class_masks(class_counts: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Return the classes [C] whose accuracies are averaged: all of them, and each shot group."""
    return {"class_mean": np.ones(len(class_counts), dtype=np.bool_), **shot_groups(class_counts)}


def accuracy_under(hits: NDArray[np.int64], totals: NDArray[np.int64], prior: NDArray[np.float64]) -> Accuracy | None:
    """Return the accuracy under class frequencies [C]; None if no class with a frequency above 0 has images."""
    value = weighted_class_accuracy(hits, totals, prior)
    return value and Accuracy.from_fractions(*value, int(totals[prior > 0].sum()))


def reported_splits(store: FeatureStore, split: str = "all") -> list[str]:
    """Return the splits to report: `split`, or for `all` val (without it, folds of train) and test if there is one."""
    if split != "all":
        if split not in store.names:
            known = " or ".join([*(name for name in ("val", "test") if name in store.names), "all"])
            raise ValueError(
                f"--split: got {split} with {store.run.path}, whose data have no {split}; expected {known}; choose "
                "one, or leave --split out"
            )
        return [split]
    return [store.validation_split, *(["test"] if "test" in store.names else [])]


def scored_splits(splits: Sequence[str], classifiers: Iterable[Classifier]) -> tuple[list[str], str]:
    """Return the splits on which all classifiers can be scored, and why train is not among them where it is left out.

    Folds of train tell of a classifier only if it was made with them; where nothing else tells of it, train stays.
    """
    lacking = [classifier.method for classifier in classifiers if classifier.held_out is None]
    if not lacking or "train" not in splits or len(splits) == 1:
        return list(splits), ""
    rest = [split for split in splits if split != "train"]
    return rest, f"train is left out, as there are no predictions of {name_some(lacking)} by folds of it"


def evaluate(run: Run, *, config: EvaluateConfig | None = None) -> Results:
    """Evaluate a run's classifiers, joint or rebalanced, and compare them with another one image by image.

    Writes `evaluation.json` and the per-class tables beside each classifier; under a target it writes nothing.

    Args:
        run: The run.
        config: Classifiers, splits and device; by default the chosen classifier, else joint, on every
            split.

    Returns:
        A `Result` for each split and classifier, top-1 accuracies in percent: `all` over images with Wilson's interval;
        `class_mean`, `many`, `medium` and `few` are means of class accuracies, whose intervals are right from one image
        a class up (`fastlt.metrics.mean_interval`), None for a group without images. Comparisons have paired intervals.

    Raises:
        ValueError, FileNotFoundError: There is no such classifier or split, a checkpoint cannot be read, or the target
            does not fit.
    """
    config = config or EvaluateConfig()
    store = FeatureStore(
        run, device=resolve_device(config.device), loader=config.loader, num_threads=config.num_threads
    )
    splits = reported_splits(store, config.split)
    if config.target and "train" in splits:
        splits.remove("train")  # whose folds know nothing of the target
    if not splits:
        raise ValueError(
            f"--target: got {config.target} with {run.path}, which has neither val nor test; expected images that the "
            "network has not learned; drop the flag"
        )
    warn_of_overlap(run.data, splits, run=run.path)
    method = classifier_name(run, config.method) or chosen_method(store) or "joint"
    names = ["joint", *methods_of(run)] if method == "all" else [method]
    against = classifier_name(run, config.against or "joint")
    classifiers = {name: open_classifier(store, name) for name in names}
    if against not in classifiers:
        classifiers[against] = open_classifier(store, against, flag="--against")
    splits, gap = scored_splits(splits, classifiers.values())
    if gap:
        log.warning("%s: %s", run.path, gap)
    if config.target:
        for classifier in classifiers.values():
            check_without_target(classifier, config.target)
        target = read_target(config.target, class_names=run.data["class_names"], class_counts=run.data["class_counts"])
        prior = target_frequencies(classifiers[names[0]], target)
        classifiers = {name: adjust_to_target(each, config.target, prior) for name, each in classifiers.items()}
    rows = [score(classifiers[name], split) for split in splits for name in names]
    others = [classifiers[name] for name in names if name != against]
    results = Results(tuple(rows), tuple(compare(others, classifiers[against], splits)))
    if not config.target:
        for name in names:
            write(classifiers[name], results, splits)
    return results


def write(classifier: Classifier, results: Results, splits: Iterable[str]) -> None:
    """Write the results and the per-class tables of one classifier beside it."""
    run, method = classifier.store.run, classifier.method
    selected = Results(
        tuple(row for row in results if row.method == method),
        tuple(comparison for comparison in results.comparisons if comparison.method == method),
    )
    with replacing_set(run.method(method) / EVALUATION) as folder:
        for split in splits:
            predictions = classifier.predictions(split)
            rows = class_rows(
                predictions.classes,
                predictions.labels,
                class_names=run.data["class_names"],
                class_counts=run.data["class_counts"],
                norms=classifier.head.norms().cpu().numpy(),
            )
            write_class_table(folder, split, rows)
        write_json(folder / EVALUATION, selected.to_json())
    if classifier.version is not None and version_of(classifier.path.with_name(RESULTS)) != classifier.version:
        for pattern in EVALUATED:
            for file in list(run.method(method).glob(pattern)):
                file.unlink(missing_ok=True)
        raise ValueError(
            f"{run.method(method)}: got another {method} classifier, which a process made meanwhile; expected the one "
            "that was evaluated; run the command again"
        )


def compare(classifiers: Iterable[Classifier], against: Classifier, splits: Sequence[str]) -> Iterator[Comparison]:
    """Yield the comparison of each classifier with another one on each split, image by image."""
    masks = class_masks(np.asarray(against.store.run.data["class_counts"]))
    for split, classifier in itertools.product(splits, classifiers):
        ours, theirs = classifier.predictions(split), against.predictions(split)
        differences = paired_difference(ours.right, theirs.right, ours.labels, masks)
        num_images = {key: int(mask[ours.labels].sum()) for key, mask in masks.items()} | {"all": len(ours.labels)}
        yield Comparison(
            method=classifier.method,
            against=against.method,
            split=split,
            differences={
                key: value and Accuracy.from_fractions(*value, num_images[key]) for key, value in differences.items()
            },
        )
