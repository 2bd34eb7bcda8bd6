"""One way to evaluate: features and a linear head in; many, medium, few and all with 95 % intervals out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from . import checkpoint, ops
from .calibration import Predictions, calibration_errors, predict
from .config import METHODS, EvaluateConfig
from .features import FeatureStore
from .hardware import resolve_device
from .metrics import (
    class_hits,
    class_mean_intervals,
    macro_f1,
    paired_difference,
    shot_groups,
    weighted_class_accuracy,
    wilson_interval,
)
from .models import LinearHead
from .per_class import class_rows, write_class_table
from .prior import adjust_to_prior, resolve_target, source_prior, unlabelled_features
from .results import ACCURACIES, GROUP_NAMES, SCHEMA, Accuracy, Comparison, Result, Results, percent
from .run import Run

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
    "score_joint",
    "score_rebalanced",
]

# Shapes: N samples, C classes.


class Outcome(NamedTuple):
    """What a classifier makes of the N samples of a split."""

    correct: NDArray[np.bool_]
    labels: NDArray[np.int64]
    predictions: Predictions


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A linear head of a run, the features that it was made for, and where it comes from."""

    method: str
    head: LinearHead
    store: FeatureStore
    params: dict[str, Any]
    selected_on: str | None
    selection: str | None
    path: Path
    prior: NDArray[np.float64] | None = None
    """[C] the class frequencies that it is adjusted to; None if it is not."""


def examine(head: LinearHead, store: FeatureStore, split: str) -> Outcome:
    """Classify the samples of a split."""
    stored = store.split(split)
    features, labels = stored.tensors(store.device)
    head = head.to(store.device)
    with torch.inference_mode():
        ranks = ops.label_rank(features, head.weight, labels, bias=head.bias)
    return Outcome((ranks == 0).cpu().numpy(), np.asarray(stored.labels), predict(head, features, labels))


def score(
    head: LinearHead,
    store: FeatureStore,
    split: str,
    *,
    method: str,
    params: dict[str, Any],
    selected_on: str | None,
    path: Path,
    selection: str | None = None,
    prior: NDArray[np.float64] | None = None,
    outcome: Outcome | None = None,
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
        selection: What was maximised where, or None.
        prior: [C] class frequencies under which ``target`` is reported, or None.
        outcome: What ``examine`` found, if it is known.
    """
    run = store.run
    outcome = outcome or examine(head, store, split)
    counts = np.asarray(run.data["class_counts"])
    hits, totals = class_hits(outcome.correct, outcome.labels, len(counts))
    config, (classes, _, likelihoods) = run.config, outcome.predictions
    # A target moves the confidences to frequencies that the split does not have
    errors = None
    if "target" not in params:
        found = calibration_errors(outcome.predictions, outcome.labels, shot_groups(counts))
        errors = {name: None if error is None else 100 * error for name, error in found.items()}
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
        **accuracies(hits, totals, counts),  # type: ignore[arg-type]  # only a group may be None
        target=None if prior is None else accuracy_under(hits, totals, prior),
        ece=errors,
        macro_f1=100 * macro_f1(classes, outcome.labels, len(counts)),
        nll=None if errors is None else -float(likelihoods.mean()),
        selection=selection,
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
    """Return the accuracy where classes come as often as ``prior`` says; None if none of them has images."""
    found = weighted_class_accuracy(hits, totals, prior)
    if found is None:
        return None
    return Accuracy(value=100 * found[0], ci95=percent(found[1]), n=int(totals[prior > 0].sum()))


def reported_splits(store: FeatureStore, split: str = "all") -> list[str]:
    """Return the splits that tables report: val and, where there is one, test."""
    if split != "all":
        return [split]
    return [name for name in ("val", "test") if name in store.names]


def open_classifier(store: FeatureStore, method: str, *, flag: str = "--method") -> Classifier:
    """Read a classifier of a run: the joint one, or a rebalanced one from its checkpoint.

    Raises:
        FileNotFoundError: The run has none by that method.
        ValueError: It was made from other weights, or cannot be read.
    """
    if method == "joint":
        return Classifier(
            method=method, head=store.head, store=store, params={}, selected_on=None, selection=None,
            path=store.checkpoint,
        )  # fmt: skip
    folder = store.run.method(method)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{flag}: {store.run.path} has no {method} classifier yet; make it with: "
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
    selected_on, settings = metadata["selected_on"], folder / "config.json"
    rule = checkpoint.read_json(settings).get("select_by") if selected_on and settings.is_file() else None
    return Classifier(
        method=method,
        head=LinearHead(tensors["fc.weight"], tensors.get("fc.bias")),
        store=store.under(tensors, method),  # live training and --reestimate-batch-norm change what is below the head
        params=metadata["params"],
        selected_on=selected_on,
        selection=rule and f"{rule} on {selected_on}",
        path=path,
    )


def score_classifier(classifier: Classifier, split: str, outcome: Outcome | None = None) -> Result:
    """Evaluate a classifier of a run on a split."""
    return score(
        classifier.head,
        classifier.store,
        split,
        method=classifier.method,
        params=classifier.params,
        selected_on=classifier.selected_on,
        path=classifier.path,
        selection=classifier.selection,
        prior=classifier.prior,
        outcome=outcome,
    )


def score_joint(store: FeatureStore, splits: Iterable[str]) -> list[Result]:
    """Evaluate the run's own head, as stage 1 left it."""
    joint = open_classifier(store, "joint")
    return [score_classifier(joint, split) for split in splits]


def score_rebalanced(store: FeatureStore, method: str, splits: Iterable[str]) -> list[Result]:
    """Evaluate a rebalanced classifier of the run from its checkpoint.

    Raises:
        FileNotFoundError: The run has none by that method.
        ValueError: It was made from other weights, or cannot be read.
    """
    classifier = open_classifier(store, method)
    return [score_classifier(classifier, split) for split in splits]


def evaluate(run: Run, *, config: EvaluateConfig | None = None) -> Results:
    """Report the accuracy of a run's classifiers, joint or rebalanced.

    Writes ``evaluation.json`` and the per-class tables beside each classifier; under a target, nothing.

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
    names = [config.method]
    if config.method == "all":
        names = ["joint", *(name for name in METHODS if (run.method(name) / "model.safetensors").is_file())]
    against = config.against or "joint"
    opened = {name: open_classifier(store, name) for name in names}
    if against not in opened:
        opened[against] = open_classifier(store, against, flag="--against")
    if config.target:
        prior = target_of(opened[names[0]], config.target)
        opened = {name: aimed(each, config.target, prior) for name, each in opened.items()}
    outcomes = {
        (name, split): examine(each.head, each.store, split) for name, each in opened.items() for split in splits
    }
    rows = [score_classifier(opened[name], split, outcomes[name, split]) for split in splits for name in names]
    comparisons = compare(run, outcomes, [name for name in names if name != against], against, splits)
    results = Results(tuple(rows), tuple(comparisons))
    if not config.target:
        for name in names:
            write(opened[name], results, {split: outcomes[name, split] for split in splits})
    return results


def write(classifier: Classifier, results: Results, outcomes: Mapping[str, Outcome]) -> None:
    """Write the results and the per-class tables of one classifier beside it."""
    run, method = classifier.store.run, classifier.method
    folder = run.method(method)
    own = Results(
        tuple(row for row in results if row.method == method),
        tuple(each for each in results.comparisons if each.method == method),
    )
    checkpoint.write_json(folder / "evaluation.json", own.to_json())
    for split, outcome in outcomes.items():
        rows = class_rows(
            outcome.predictions.classes,
            outcome.labels,
            class_names=run.data["class_names"],
            class_counts=run.data["class_counts"],
            norms=classifier.head.norms().cpu().numpy(),
        )
        write_class_table(folder, split, rows)


def compare(
    run: Run, outcomes: Mapping[tuple[str, str], Outcome], names: Sequence[str], against: str, splits: Iterable[str]
) -> list[Comparison]:
    """Compare classifiers with another one, image by image."""
    counts = np.asarray(run.data["class_counts"])
    masks = {"class_mean": np.ones(len(counts), dtype=np.bool_), **shot_groups(counts)}
    found = []
    for split in splits:
        for name in names:
            ours, theirs = outcomes[name, split], outcomes[against, split]
            differences = paired_difference(ours.correct, theirs.correct, ours.labels, masks)
            num_images = {key: int(mask[ours.labels].sum()) for key, mask in masks.items()} | {"all": len(ours.labels)}
            found.append(
                Comparison(
                    method=name,
                    against=against,
                    split=split,
                    differences={
                        key: value and Accuracy(value=100 * value[0], ci95=percent(value[1]), n=num_images[key])
                        for key, value in differences.items()
                    },
                )
            )
    return found


def source_of(classifier: Classifier) -> NDArray[np.float64]:
    """Return the class frequencies under which a classifier's probabilities hold."""
    run = classifier.store.run
    counts = run.data["class_counts"]
    if classifier.method != "joint":
        return np.full(len(counts), 1 / len(counts))
    return source_prior(counts, sampling=run.config.sampling, loss=run.config.loss)


def target_of(classifier: Classifier, spec: str) -> NDArray[np.float64]:
    """Return the class frequencies that ``--target`` names, estimated with this classifier where it asks for that."""
    data = classifier.store.run.data
    check_unaimed(classifier, spec)
    return resolve_target(
        spec,
        classifier.head.to(classifier.store.device),
        class_names=data["class_names"],
        class_counts=data["class_counts"],
        source=source_of(classifier),
        features=lambda folder: unlabelled_features(classifier.store, folder),
    )


def aimed(classifier: Classifier, spec: str, prior: NDArray[np.float64]) -> Classifier:
    """Adjust a classifier to the class frequencies of a target."""
    check_unaimed(classifier, spec)
    head = adjust_to_prior(classifier.head, prior, source_of(classifier))
    return dataclasses.replace(classifier, head=head, params={**classifier.params, "target": spec}, prior=prior)


def check_unaimed(classifier: Classifier, spec: str) -> None:
    """Raise a ValueError for a classifier into which a target is folded already."""
    if known := classifier.params.get("target"):
        raise ValueError(
            f"--target: got {spec}, but the {classifier.method} classifier is made for the target {known}; evaluate it "
            f"without --target, or make it anew with: fastlt rebalance --method {classifier.method}"
        )
