"""The choice of one method among all: the joint classifier and every candidate, by cross-validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ..config import RebalanceConfig
from ..evaluation.choice import Candidate, Choice
from ..evaluation.classifier import MODEL, Classifier
from ..evaluation.predictions import Predictions
from ..evaluation.scoring import compare, score
from ..features.store import FeatureStore
from ..runtime.log import first_line, log, name_some
from .engine.cost import training_seconds
from .engine.folds import NUM_FOLDS
from .methods.registry import Method, find
from .problem import RebalancedHead, check_group
from .validation import Validation, ValidationSplit, selection_of, unchanged

LIMIT_S = 60.0  # that a training may take to be tried without being asked for
TOLERANCE = 1e-9  # in percent: accuracies closer than this differ only by the rounding of their sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trials:
    """The heads that are candidates beside joint, what they say of unseen images, and who is missing."""

    results: dict[str, RebalancedHead]
    held_out: dict[str, Predictions]
    left_out: dict[str, str]
    """Method -> why."""

    def classifiers(self, store: FeatureStore, config: RebalanceConfig) -> Iterator[Classifier]:
        """Yield the candidates as classifiers of a run; no temperature is folded in yet."""
        for method, result in self.results.items():
            yield Classifier(
                method=method,
                head=result.head,
                store=store,
                path=store.run.method(method) / MODEL,
                params=dict(result.params),
                selected_on=result.selected_on,
                selection=selection_of(result, config),
                held_out=self.held_out[method],
            )


def try_methods(validation: Validation, config: RebalanceConfig) -> Trials:
    """Fit every method that may be chosen, to all images and fold by fold.

    Args:
        validation: What they are chosen on: val, or folds of train.
        config: Settings, whose method is auto or best; auto leaves out what takes more than a minute.

    Returns:
        The trials; a method that cannot be fitted is left out.

    Raises:
        ValueError: val is too small for folds, or the accuracy that decides has no images in it.
    """
    check_deciding(validation, config)
    names, left_out = affordable(validation, config)
    results: dict[str, RebalancedHead] = {}
    held_out: dict[str, Predictions] = {}
    for name in names:
        single = dataclasses.replace(config, method=name)
        try:
            result = validation.fit(single)
            held_out |= validation.held_out(single, result, unchanged)
        except ValueError as error:
            log.warning("%s is no candidate: %s", name, error)
            left_out[name] = first_line(error)
        else:
            results |= result
    return Trials(results=results, held_out=held_out, left_out=left_out)


def check_deciding(validation: Validation, config: RebalanceConfig) -> None:
    """Raise a ValueError unless the images that are held out can decide among methods."""
    if len(validation.labels) < NUM_FOLDS:
        raise ValueError(
            f"--method: got {config.method} with {len(validation.labels)} val images; expected at least {NUM_FOLDS}, "
            "to choose by folds of them; name one method"
        )
    check_group(config.select_by, validation.labels, validation.problem.class_counts, validation.name)


def affordable(validation: Validation, config: RebalanceConfig) -> tuple[list[str], dict[str, str]]:
    """Return the methods to try, the cheapest first, and why others are left out."""
    names, left_out, total = [], {}, 0.0
    by_folds = not isinstance(validation, ValidationSplit)
    for method in sorted(map(find, config.methods), key=lambda method: cost_rank(method, config)):
        name, training = method.name, method.training
        if config.method == "auto" and not method.quick:
            left_out[name] = "it is not registered as quick"
            continue
        if training is not None:
            seconds = training_seconds(training, validation.problem, config, by_folds=by_folds)
            if config.method == "auto" and seconds > LIMIT_S:
                left_out[name] = f"its training would take about {spoken(seconds)} on this machine"
                continue
            total += seconds
        names.append(name)
    if total > LIMIT_S / 6:
        log.info("training classifiers on cached features: about %s", spoken(total))
    return names, left_out


def cost_rank(method: Method, config: RebalanceConfig) -> tuple[bool, bool]:
    """Return how costly a method is beside others: one that trains, or looks at training images, costs more."""
    return method.training is not None, method.uses_training_features(config)


def spoken(seconds: float) -> str:
    """Return a duration in words."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def choose(
    joint: Classifier, candidates: Iterable[Classifier], config: RebalanceConfig, left_out: Mapping[str, str]
) -> Choice:
    """Return the choice of the classifier that is the best on val, or on train by folds; of equals, of the cheaper.

    Args:
        joint: The joint classifier.
        candidates: The others, the cheapest first, with predictions of that split by heads chosen without it.
        config: Says by which accuracy.
        left_out: Methods that are no candidates -> why.

    """
    classifiers = [joint, *candidates]
    store, by, split = joint.store, config.select_by, joint.store.validation_split
    rows = {classifier.method: score(classifier, split) for classifier in classifiers}
    if split == "val":
        tell_absent(joint)
    gains = {each.method: each.differences[by] for each in compare(classifiers[1:], joint, [split])}
    # Stable, so that of equals the cheaper comes first
    order = sorted(rows, key=lambda name: -round(getattr(rows[name], by).value / TOLERANCE))
    winner = order[0]
    return Choice(
        method=winner,
        by=by,
        split=split,
        on=f"{NUM_FOLDS} folds",
        weights=store.weights_hash,
        settings=dataclasses.replace(config, method=winner).to_json() if winner != "joint" else config.to_json(),
        candidates=[Candidate(result=rows[name], gain=gains.get(name)) for name in order],
        left_out=dict(left_out),
    )


def tell_absent(joint: Classifier) -> None:
    """Say of which classes val has no images."""
    names = joint.store.run.data["class_names"]
    totals = np.bincount(joint.predictions("val").labels, minlength=len(names))
    absent = [names[index] for index in np.flatnonzero(totals == 0).tolist()]
    if absent:
        log.warning(
            "val has no images of %d of %d classes (%s): the choice says nothing of them",
            len(absent),
            len(names),
            name_some(absent),
        )
