"""The figures of the report: each is computed and drawn, or says in a sentence why it cannot be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import SHOT_GROUPS
from ..evaluation.classifier import Classifier
from ..evaluation.results import Results
from ..rebalancing import tau_curve
from ..run import Run
from . import plots
from .decision_regions import choose_classes, planes
from .worst import shorten

# Shapes: C classes.

TAUS = np.linspace(0, 2, 81)
NUM_RESAMPLES = 300
NUM_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of the page. `path` is None if it could not be drawn; the caption says why."""

    title: str
    caption: str
    alt: str = ""
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the report is made of."""

    folder: Path
    run: Run
    classifiers: list[Classifier]
    """Joint first."""
    after: Classifier | None
    """The rebalanced classifier of the pictures before and after, or None."""
    results: Results
    split: str
    """The split that accuracies are of."""
    counts: NDArray[np.int64]
    """[C] training images."""
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
        """The classifiers of a picture before and after."""
        return " and ".join(part.label for part in self.pair)


def draw(it: Material) -> list[Figure]:
    """Draw every figure into the folder, in the order of the page."""
    makers = (
        by_group, by_class_size, weight_norms, by_tau, tail_errors, confusions, regions, reliability, training,
    )  # fmt: skip
    return [make(it) for make in makers]


def by_group(it: Material) -> Figure:
    """Accuracy by shot group and classifier."""
    path = it.folder / "accuracy_by_group.png"
    rows = {part.method: it.results.find(part.method, it.split) for part in it.classifiers}
    plots.accuracy_by_group(path, rows)
    numbers = "; ".join(
        f"{name.replace('_', ' ')} "
        + ", ".join(f"{key} {value.value:.1f}" for key in (*SHOT_GROUPS, "all") if (value := getattr(row, key)))
        for name, row in rows.items()
    )
    return Figure(
        title="Accuracy by group",
        path=path,
        alt=f"Dots of accuracy in percent on {it.split}: {numbers}.",
        caption=f"Accuracy on {it.split} of classes with many, medium and few training images, and of all images, with "
        "95 % intervals.",
    )


def by_class_size(it: Material) -> Figure:
    """Accuracy of every class against its size."""
    path = it.folder / "accuracy_by_class_size.png"
    accuracies = {part.method: part.predictions(it.split).class_accuracy(len(it.counts)) for part in it.pair}
    plots.accuracy_by_class_size(path, it.counts, accuracies)
    return Figure(
        title="Accuracy by class size",
        path=path,
        alt=f"A dot a class: accuracy on {it.split} against the number of training images, for {it.versus}, with means "
        "over classes of like size.",
        caption=f"Every class as a dot, on {it.split}; the lines are means over classes of like size.",
    )


def weight_norms(it: Material) -> Figure:
    """Weight norm against class rank."""
    path = it.folder / "weight_norms.png"
    norms = {part.method: part.head.norms().detach().cpu().numpy() for part in it.classifiers}
    # Up to a factor, that of a temperature
    shapes = {name: values / (values.mean() or 1) for name, values in norms.items()}
    same = [name for name in norms if name != "joint" and np.allclose(shapes[name], shapes["joint"], rtol=1e-4)]
    drawn = {name: values for name, values in norms.items() if name not in same}
    plots.weight_norms(path, drawn, it.counts)
    names = ", ".join(drawn).replace("_", " ")
    unchanged = f" As the joint ones, so not drawn: {', '.join(same)}.".replace("_", " ") if same else ""
    return Figure(
        title="Length of the weight vectors",
        path=path,
        alt=f"Weight norm against class rank, head to tail, a line for each of {names}.",
        caption="Joint training tends to give classes with many images long weight vectors, so that they win; "
        f"rebalancing takes that advantage away. Norms are divided by their mean over classes.{unchanged}",
    )


def by_tau(it: Material) -> Figure:
    """Accuracy against tau, exactly."""
    store = it.before.store
    split = "val" if "val" in store.names else it.split
    features, labels = store.split(split).tensors(store.device)
    curve = tau_curve(store.head, features, labels, it.counts)
    shown = [name for name in (*SHOT_GROUPS, "all") if name in curve.groups]
    values = {name: (curve.value(TAUS, name), *curve.band(TAUS, name, num_resamples=NUM_RESAMPLES)) for name in shown}
    best = curve.best("all", low=float(TAUS[0]), high=float(TAUS[-1]))
    path = it.folder / "accuracy_by_tau.png"
    plots.tau_curve(path, TAUS, values, best.tau)
    return Figure(
        title="Accuracy against τ",
        path=path,
        alt=f"Accuracy on {split} against tau from 0 to 2 for {', '.join(shown)}; over all images it is best, "
        f"{100 * best.value:.1f} percent, at tau {best.tau:.2f}.",
        caption=f"On {split}, from the exact curve, not a grid of trials: over all images the accuracy is best, "
        f"{100 * best.value:.1f} %, for τ between {best.low:.4f} and {best.high:.4f}. Bands are 95 % (bootstrap of the "
        "images within each class). At τ = 0 the weights are the joint ones, without their bias.",
    )


def tail_errors(it: Material) -> Figure:
    """What images of the smallest classes are taken for."""
    title = "What the tail is taken for"
    labels = it.before.predictions(it.split).labels
    present = [name for name in SHOT_GROUPS if it.groups[name][labels].any()]
    if len(present) < 2:
        return Figure(title=title, caption=f"Not drawn: all images of {it.split} are of classes of one group.")
    group = present[-1]
    shares = {}
    for part in it.classifiers:
        said = part.predictions(it.split)
        mine = it.groups[group][said.labels]
        wrong = said.classes[mine & ~said.right]
        shares[part.method] = {"right": 100 * float(said.right[mine].mean())} | {
            name: 100 * float(it.groups[name][wrong].sum() / mine.sum()) for name in SHOT_GROUPS
        }
    path = it.folder / "tail_errors.png"
    plots.tail_errors(path, shares, group)
    numbers = "; ".join(
        f"{name.replace('_', ' ')}: " + ", ".join(f"{kind} {value:.0f}" for kind, value in share.items())
        for name, share in shares.items()
    )
    return Figure(
        title=title,
        path=path,
        alt=f"Percent of the images of {group} classes by what they are taken for: {numbers}.",
        caption=f"Images of {group} classes on {it.split}: right, or wrongly taken for another class with few, medium "
        "or many training images.",
    )


def confusions(it: Material) -> Figure:
    """Class rank against class rank."""
    title = "Which sizes are mistaken for which"
    if len(it.counts) < 2:
        return Figure(title=title, caption="Not drawn: there is only one class.")
    ranks = np.empty(len(it.counts), dtype=np.int64)
    ranks[np.argsort(-it.counts, kind="stable")] = np.arange(len(it.counts))
    num_bins = min(NUM_BINS, len(it.counts))
    bins = ranks * num_bins // len(it.counts)
    tables = {}
    for part in it.pair:
        said = part.predictions(it.split)
        table = np.zeros((num_bins, num_bins))
        np.add.at(table, (bins[said.labels], bins[said.classes]), 1.0)
        tables[part.method] = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    path = it.folder / "confusions.png"
    plots.confusions(path, tables)
    return Figure(
        title=title,
        path=path,
        alt=f"Heat maps of true against predicted class on {it.split}, classes in {num_bins} bins by size, for "
        f"{it.versus}.",
        caption=f"Classes in {num_bins} bins from the largest (head) to the smallest (tail): the share of a row's "
        f"images of {it.split} that are given to a column. Left of the diagonal a larger class takes the images.",
    )


def regions(it: Material) -> Figure:
    """Decision regions of three classes."""
    title = "Borders between a large, a middle and a small class"
    chosen = choose_classes(it.before.predictions(it.split), it.counts, it.groups)
    if chosen is None or it.before.head.weight.shape[1] < 2:
        return Figure(title=title, caption="Not drawn: that takes three classes with images, and two features.")
    names = [f"{shorten(it.run.data['class_names'][index])} ({it.counts[index]:,})" for index in chosen]
    path = it.folder / "decision_regions.png"
    plots.decision_regions(path, planes(it.pair, chosen, it.split), names)
    return Figure(
        title=title,
        path=path,
        alt=f"Regions of a plane in which each of three classes wins, for {it.versus}, with images of {it.split} as "
        f"points; the classes, with their numbers of training images, are {', '.join(names)}.",
        caption="Which of three classes wins depends on two directions of feature space only, the differences of their "
        "weight vectors. Each panel shows its classifier's own two, turned so that the panels match: among the three, "
        f"every image of {it.split} lies exactly on the side to which it is assigned. In brackets: training images.",
    )


def reliability(it: Material) -> Figure:
    """Accuracy against confidence."""
    bins, errors = {}, []
    for part in it.pair:
        said = part.predictions(it.split)
        order = np.argsort(said.confidences, kind="stable")
        cuts = np.array_split(order, min(NUM_BINS, len(order)))
        confidence = np.array([said.confidences[cut].mean() for cut in cuts])
        accuracy = np.array([said.right[cut].mean() for cut in cuts])
        shares = np.array([len(cut) for cut in cuts]) / len(order)
        bins[part.method] = confidence, accuracy
        errors.append(f"{part.label} {100 * float(shares @ np.abs(confidence - accuracy)):.1f}")
    path = it.folder / "reliability.png"
    plots.reliability(path, bins)
    return Figure(
        title="Is it as right as it is sure?",
        path=path,
        alt=f"Accuracy against confidence on {it.split} for {it.versus}; mean distances from the diagonal in points: "
        f"{', '.join(errors)}.",
        caption=f"{len(cuts)} equal shares of the images of {it.split} by confidence; on the dashed line confidence is "
        f"accuracy. Mean distance from it, in points: {', '.join(errors)}.",
    )


def training(it: Material) -> Figure:
    """Loss and accuracies over stage 1."""
    records = read_records(it.run.metrics)
    if not records:
        return Figure(title="Training", caption="Not drawn: the run has no records of its training (metrics.jsonl).")
    path = it.folder / "training.png"
    plots.training_curves(path, records)
    last = (records[-1].get("val") or {}).get("all")
    ending = "" if last is None else f", {last:.1f} percent over all images in the last"
    return Figure(
        title="Training",
        path=path,
        alt=f"Training loss, and accuracy on val by group, over {len(records)} epochs{ending}.",
        caption="Stage 1, epoch by epoch: the loss above, the accuracy of the joint classifier on val below.",
    )


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, an epoch each; of an epoch that was run twice, the later one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    records: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            record = json.loads(line)
            records[int(record["epoch"])] = record
        except (ValueError, KeyError, TypeError):  # a line cut short by a crash
            continue
    return [records[epoch] for epoch in sorted(records)]
