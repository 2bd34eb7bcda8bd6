"""The figures of the report: each is computed and drawn, or its caption says why it cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import SHOT_GROUPS
from ..evaluation.calibration import calibration_error, confidence_bins
from ..evaluation.choice import Choice
from ..evaluation.classifier import Classifier
from ..evaluation.results import Results
from ..rebalancing import tau_curve
from ..run import Run
from ..training.log import EpochRecord, read_records
from . import plots
from .decision_regions import choose_classes, planes
from .worst import shorten

# Shapes: C classes.

TAUS = np.linspace(0, 2, 81)
NUM_BINS = 10
MAX_EPOCH = 10**9  # more is a damaged record


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of the page; `path` is None if it could not be drawn, and the caption says why."""

    title: str
    caption: str
    alt: str = ""
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Material:
    """The contents of the report."""

    folder: Path
    run: Run
    classifiers: list[Classifier]
    """Joint first."""
    after: Classifier | None
    """The rebalanced classifier of the before-and-after figures, or None."""
    results: Results
    split: str
    """The split whose accuracies are shown."""
    counts: NDArray[np.int64]
    """[C] training images."""
    choice: Choice | None = None
    """The choice among methods that the run goes by."""
    groups: dict[str, NDArray[np.bool_]]
    """"many", "medium", "few" -> classes [C]."""

    @property
    def before(self) -> Classifier:
        """The joint classifier."""
        return self.classifiers[0]

    @property
    def pair(self) -> list[Classifier]:
        """The joint classifier and the rebalanced one, if there is one."""
        return [self.before, self.after] if self.after else [self.before]

    @property
    def versus(self) -> str:
        """The names of that pair."""
        return " and ".join(classifier.label for classifier in self.pair)


def draw_figures(material: Material) -> list[Figure]:
    """Draw every figure into the folder, in the order of the page."""
    draws = (
        accuracy_by_group,
        accuracy_by_class_size,
        weight_norms,
        accuracy_by_tau,
        tail_errors,
        confusions,
        decision_regions,
        reliability,
        training,
    )
    return [draw(material) for draw in draws]


def accuracy_by_group(material: Material) -> Figure:
    """Draw accuracy by shot group and classifier."""
    rows = {
        classifier.label: material.results.find(classifier.method, material.split)
        for classifier in material.classifiers
    }
    path = plots.accuracy_by_group(material.folder, rows)
    numbers = "; ".join(
        f"{name} "
        + ", ".join(f"{key} {value.value:.1f}" for key in (*SHOT_GROUPS, "all") if (value := getattr(row, key)))
        for name, row in rows.items()
    )
    return Figure(
        title="Accuracy by group",
        path=path,
        alt=f"Dots of accuracy in percent on {material.split}: {numbers}.",
        caption=f"Accuracy on {material.split} of classes with many, medium and few training images, and of all "
        "images, with 95 % intervals.",
    )


def accuracy_by_class_size(material: Material) -> Figure:
    """Draw the accuracy of every class against its size."""
    accuracies = {
        classifier.label: classifier.predictions(material.split).class_accuracy(len(material.counts))
        for classifier in material.pair
    }
    path = plots.accuracy_by_class_size(material.folder, material.counts, accuracies)
    return Figure(
        title="Accuracy by class size",
        path=path,
        alt=f"A dot per class: accuracy on {material.split} against training images for {material.versus}; "
        "lines are means over classes of similar size.",
        caption=f"Each dot is a class, on {material.split}; the lines are means over classes of similar size.",
    )


def weight_norms(material: Material) -> Figure:
    """Draw weight norm against class rank."""
    norms = {classifier.label: classifier.head.norms().detach().cpu().numpy() for classifier in material.classifiers}
    # Equal up to a factor, that of a temperature
    shapes = {name: values / (values.mean() or 1) for name, values in norms.items()}
    same = [name for name in norms if name != "joint" and np.allclose(shapes[name], shapes["joint"], rtol=1e-4)]
    drawn = {name: values for name, values in norms.items() if name not in same}
    path = plots.weight_norms(material.folder, drawn, material.counts)
    unchanged = f" Not drawn, since equal to the joint ones: {', '.join(same)}." if same else ""
    return Figure(
        title="Length of the weight vectors",
        path=path,
        alt=f"Weight norm against class rank, head to tail, a line for each of {', '.join(drawn)}.",
        caption="Joint training tends to give classes with many images long weight vectors, so that they win; "
        f"rebalancing removes that advantage. Norms are divided by their mean over classes.{unchanged}",
    )


def accuracy_by_tau(material: Material) -> Figure:
    """Draw the exact accuracy against tau."""
    store = material.before.store
    split = "val" if "val" in store.names else material.split
    if split == "train":
        return Figure(
            title="Accuracy against τ", caption="Not drawn: the joint classifier has learned the train images."
        )
    features, labels = store.split(split).tensors(store.device)
    curve = tau_curve(store.head, features, labels, material.counts)
    shown = [name for name in (*SHOT_GROUPS, "all") if name in curve.groups]
    values = {name: (curve.value(TAUS, name), *curve.band(TAUS, name)) for name in shown}
    best = curve.best("all", low=float(TAUS[0]), high=float(TAUS[-1]))
    path = plots.accuracy_by_tau(material.folder, TAUS, values, best.tau)
    return Figure(
        title="Accuracy against τ",
        path=path,
        alt=f"Accuracy on {split} against tau from 0 to 2 for {', '.join(shown)}; over all images it is best, "
        f"{100 * best.value:.1f} percent, at tau {best.tau:.2f}.",
        caption=f"The exact curve on {split}, not a grid of trials: the accuracy over all images is best, "
        f"{100 * best.value:.1f} %, for τ between {best.low:.4f} and {best.high:.4f}. Bands are 95 % intervals "
        "of the accuracy at each τ alone. At τ = 0 the weights are the joint ones, without their bias.",
    )


def tail_errors(material: Material) -> Figure:
    """Draw what images of the smallest classes are mistaken for."""
    title = "What tail images are mistaken for"
    labels = material.before.predictions(material.split).labels
    present = [name for name in SHOT_GROUPS if material.groups[name][labels].any()]
    if len(present) < 2:
        return Figure(title=title, caption=f"Not drawn: all images of {material.split} belong to classes of one group.")
    group = present[-1]
    shares = {}
    for classifier in material.classifiers:
        predictions = classifier.predictions(material.split)
        inside = material.groups[group][predictions.labels]
        wrong = predictions.classes[inside & ~predictions.right]
        shares[classifier.label] = {"right": 100 * float(predictions.right[inside].mean())} | {
            name: 100 * float(material.groups[name][wrong].sum() / inside.sum()) for name in SHOT_GROUPS
        }
    path = plots.tail_errors(material.folder, shares, group)
    numbers = "; ".join(
        f"{name}: " + ", ".join(f"{kind} {value:.0f}" for kind, value in share.items())
        for name, share in shares.items()
    )
    return Figure(
        title=title,
        path=path,
        alt=f"Percent of the images of {group}-shot classes by what they are predicted as: {numbers}.",
        caption=f"Images of {group}-shot classes on {material.split}: right, or mistaken for another class with few, "
        "medium or many training images.",
    )


def confusions(material: Material) -> Figure:
    """Draw true against predicted class, by class rank."""
    title = "Confusions by class size"
    if len(material.counts) < 2:
        return Figure(title=title, caption="Not drawn: there is only one class.")
    ranks = np.empty(len(material.counts), dtype=np.int64)
    ranks[np.argsort(-material.counts, kind="stable")] = np.arange(len(material.counts))
    num_bins = min(NUM_BINS, len(material.counts))
    bins = ranks * num_bins // len(material.counts)
    tables = {}
    for classifier in material.pair:
        predictions = classifier.predictions(material.split)
        table = np.zeros((num_bins, num_bins))
        np.add.at(table, (bins[predictions.labels], bins[predictions.classes]), 1.0)
        tables[classifier.label] = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    path = plots.confusions(material.folder, tables)
    return Figure(
        title=title,
        path=path,
        alt=f"Heat maps of true against predicted class on {material.split}, classes in {num_bins} bins by size, for "
        f"{material.versus}.",
        caption=f"Classes in {num_bins} bins from the largest (head) to the smallest (tail): the share of a row's "
        f"images of {material.split} that are predicted as a column's classes. Left of the diagonal, images are lost "
        "to larger classes.",
    )


def decision_regions(material: Material) -> Figure:
    """Draw the decision regions of three classes."""
    title = "Decision borders of a large, a medium and a small class"
    classes = choose_classes(material.before.predictions(material.split), material.counts, material.groups)
    if classes is None or material.before.head.weight.shape[1] < 2:
        return Figure(title=title, caption="Not drawn: this needs three classes with images, and two features.")
    names = [f"{shorten(material.run.data['class_names'][index])} ({material.counts[index]:,})" for index in classes]
    path = plots.decision_regions(material.folder, planes(material.pair, classes, material.split), names)
    return Figure(
        title=title,
        path=path,
        alt=f"Regions of a plane in which each of three classes wins, for {material.versus}, with images of "
        f"{material.split} as points; the classes, with their numbers of training images, are {', '.join(names)}.",
        caption="Which of three classes wins depends on two directions of feature space only, the differences of their "
        "weight vectors. Each panel shows the plane of its classifier, turned so that the panels match: every image of "
        f"{material.split} lies exactly on the side of the class that wins among the three. In brackets: training "
        "images.",
    )


def reliability(material: Material) -> Figure:
    """Draw accuracy against confidence."""
    points, errors = {}, []
    for classifier in material.pair:
        predictions = classifier.predictions(material.split)
        bins = confidence_bins(predictions.confidences)
        confidences = np.array([predictions.confidences[rows].mean() for rows in bins])
        points[classifier.label] = confidences, np.array([predictions.right[rows].mean() for rows in bins])
        error = calibration_error(predictions.confidences, predictions.right)
        errors.append(f"{classifier.label} {100 * (error or 0.0):.1f}")
    path = plots.reliability(material.folder, points)
    return Figure(
        title="Calibration",
        path=path,
        alt=f"Accuracy against confidence on {material.split} for {material.versus}; mean distances from the diagonal, "
        f"in points: {', '.join(errors)}.",
        caption=f"The images of {material.split} in {len(bins)} equal bins by confidence; on the dashed line accuracy "
        f"equals confidence. Mean distance from it (ece), in points: {', '.join(errors)}.",
    )


def training(material: Material) -> Figure:
    """Draw loss and accuracies over stage 1."""
    records = records_of(material.run.metrics)
    if not records:
        return Figure(title="Training", caption="Not drawn: the run has no records of its training (metrics.jsonl).")
    path = plots.training(material.folder, records)
    last = (records[-1].get("val") or {}).get("all")
    end = "" if last is None else f", {last:.1f} percent over all images in the last"
    return Figure(
        title="Training",
        path=path,
        alt=f"Training loss, and accuracy on val by group, over {len(records)} epochs{end}.",
        caption="Stage 1, epoch by epoch: the loss above, the accuracy of the joint classifier on val below.",
    )


def records_of(metrics: Path) -> list[EpochRecord]:
    """Return the records of a metrics file, one an epoch; of an epoch that was run twice, the later one."""
    if not metrics.is_file():
        return []
    records = {record.get("epoch", 0): record for _, record in read_records(metrics)}
    return [records[epoch] for epoch in sorted(records) if 0 < epoch < MAX_EPOCH]
