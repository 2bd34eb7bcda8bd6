"""How classifiers are chosen and calibrated: on val or, without val, by folds of the training images."""

from __future__ import annotations

import dataclasses
import logging
import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..config import RebalanceConfig
from ..evaluation.calibration import fit_temperature, spread_of, warn_if_rough, with_temperature
from ..evaluation.classifier import JOINT
from ..evaluation.predictions import Predictions, predict
from ..models import LinearHead
from ..runtime.log import log, only
from .engine.cached import check_features, train_grid, trainings
from .engine.folds import NUM_FOLDS, Complete, cross_validate, stratified_folds
from .engine.grids import LinearGrid, new_head
from .engine.selection import TOLERANCE, accuracy_of, say_joint
from .engine.sgd import Retraining
from .methods.registry import find, fit
from .problem import Problem, RebalancedHead, check_group

# Shapes: N training images, C classes, D feature width.

FEWEST = NUM_FOLDS**2
"""Training images from which folds of them can choose."""
GAP = 0.01
"""The training accuracy that a head of a fold may lack of the joint head's."""
RATES = ("lr", "weight_decay")
"""The settings of a training whose chosen values results show."""
REFITTED = Retraining(start=lambda head, config, num_settings: LinearGrid(new_head(head, config.seed), num_settings))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationSplit:
    """A split that the network has not seen: settings are chosen on all of it, and held out by folds of it."""

    problem: Problem
    joint: None = None
    """The joint head has not seen the split, so that it speaks for itself."""

    @property
    def name(self) -> str:
        """What its images are called."""
        return "test" if self.problem.selected_on == "test" else "val"

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels of the images on which a choice is made."""
        return self.problem.selection.labels

    def fit(self, config: RebalanceConfig) -> dict[str, RebalancedHead]:
        """Fit the methods of a configuration."""
        return fit(self.problem, config)

    def held_out(
        self, config: RebalanceConfig, results: dict[str, RebalancedHead], complete: Complete
    ) -> dict[str, Predictions]:
        """Return, by method, predictions of the split, each fold of it by heads whose settings the others chose."""
        return cross_validate(self.problem, config, results, fit, complete)

    def temperature(self, method: str, head: LinearHead) -> float:
        """Return the temperature that fits the split."""
        samples = self.problem.selection_tensors()
        head = head.to(self.problem.device)
        warn_if_rough(head, *samples, split=self.name)
        return fit_temperature(head, *samples)


class TrainFolds:
    """Five folds of the training images, each with a joint head and rebalanced ones that were fitted to the others.

    The network has learned all of these images, and so has its joint head, which would look perfect on them. In its
    place a linear head is trained anew on the features of four folds, drawn as in stage 1, until it is as often right
    there as the joint head; methods are applied to that one, their settings chosen on the other folds. An image that is
    the only one of its class is in no fold.

    Args:
        problem: The problem, with training features.
        seed: Seed of folds and heads.

    Raises:
        ValueError: There are too few images.
    """

    name = "folds of train"

    def __init__(self, problem: Problem, *, seed: int) -> None:
        check_features(problem.train[:1], problem.head)
        labels, num_classes = problem.train[0].labels, problem.head.num_classes
        self.totals = np.bincount(labels, minlength=num_classes)
        shared, num_shared = np.flatnonzero(self.totals[labels] > 1), int((self.totals > 1).sum())
        if len(shared) < FEWEST or num_shared < 2:
            raise ValueError(
                f"val: got none, and {len(shared)} train images that are not alone in their class (classes: "
                f"{num_shared}); expected val, or at least {FEWEST} such images of 2 classes to make folds; add val"
            )
        if num_shared < num_classes:
            log.warning(
                "%d of %d classes have a single train image, which is in no fold: accuracies and choices say nothing "
                "of them (the first is class %d)",
                num_classes - num_shared,
                num_classes,
                np.argmax(self.totals < 2),
            )
        self.problem, self.seed = problem, seed
        self.folds = np.full(len(labels), -1)
        self.folds[shared] = stratified_folds(labels[shared], seed=seed)
        self.fitted: dict[str, list[tuple[RebalanceConfig, RebalancedHead]]] = {}
        log.info("training a joint classifier for each of %d folds of train", NUM_FOLDS)
        self.heads = [self.joint_head(self.part(fold)) for fold in range(NUM_FOLDS)]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels of the images of all folds, in their order."""
        return self.problem.train[0].labels[self.folds >= 0]

    def part(self, fold: int, *, with_train: bool = True) -> Problem:
        """Return the problem of the other folds, still with the joint head of all; `fold` is its selection split.

        Args:
            fold: The fold.
            with_train: Whether training features are needed, most of which are copied.
        """
        is_outside, views = self.folds != fold, self.problem.train
        outside, inside = np.flatnonzero(is_outside), np.flatnonzero(~is_outside)
        counts, rest = self.problem.class_counts, np.bincount(views[0].labels[outside], minlength=len(self.totals))
        return dataclasses.replace(
            self.problem,
            train=tuple(view.take(outside) for view in views) if with_train else (),
            selection=views[0].take(inside),
            # Those of the fold; where they were given, of more images than these, the same share
            class_counts=-(-counts * rest // self.totals),
        )

    def fold(self, fold: int, *, with_train: bool = False) -> Problem:
        """Return the problem of the other folds with their joint head."""
        return dataclasses.replace(self.part(fold, with_train=with_train), head=self.heads[fold])

    def joint_head(self, part: Problem) -> LinearHead:
        """Return a linear head trained on the images of a problem's folds as stage 1 draws them.

        Its logits are scaled to the spread of the joint head's, so that what depends on their size carries over.
        """
        part = dataclasses.replace(part, train=part.train[:1])  # whatever views a method wants
        features, labels = part.training_tensors()
        aim = predict(part.head, features, labels).right.mean() - GAP
        config = RebalanceConfig(method="crt", seed=self.seed)
        for training in trainings(REFITTED, part, config):
            grid = REFITTED.start(part.head, config, 1)
            train_grid(grid, dataclasses.replace(training, sampling="instance_balanced"), part)
            head = grid.head(0)
            share = predict(head, features, labels).right.mean()
            if share >= aim:
                break
        else:
            log.warning(
                "a joint classifier of folds of train is right on %.1f %% of its images after %d epochs, that of the "
                "network on %.1f %%: joint looks worse by folds than it is",
                100 * share,
                training.epochs,
                100 * (aim + GAP),
            )
        return with_temperature(head, spread_of(head, features) / spread_of(part.head, features))

    @cached_property
    def joint(self) -> Predictions:
        """Predictions of the images of all folds, in their order, each by the joint head of the other folds."""
        folds = map(self.fold, range(NUM_FOLDS))
        return self.in_order([predict(fold.head, *fold.selection_tensors()) for fold in folds])

    def fit(self, config: RebalanceConfig) -> dict[str, RebalancedHead]:
        """Fit the methods of a configuration to all images, with settings that are the best on all folds."""
        return {name: self.fit_one(dataclasses.replace(config, method=name)) for name in config.methods}

    def fit_one(self, config: RebalanceConfig) -> RebalancedHead:
        """Fit the only method of a configuration, to all images and fold by fold."""
        method, num_folds = find(config.method), range(NUM_FOLDS)
        with_train, choosing = method.uses_training_features(config), method.choosing
        is_open = choosing is not None and choosing.is_open(config)
        settled = [config] * (NUM_FOLDS + 1)
        if is_open:
            check_group(config.select_by, self.labels, self.problem.class_counts, self.name)
        with only(logging.ERROR):  # the fit to all images says the same once more
            if choosing is not None and is_open:
                found = [choosing.explore(self.fold(fold, with_train=with_train), config) for fold in num_folds]
                others = [[found[at] for at in num_folds if at != fold] for fold in num_folds]
                counts = self.problem.class_counts
                settled = [choosing.settle(splits, config, counts) for splits in [*others, found]]
            parts = [fit(self.fold(at, with_train=with_train), settled[at])[method.name] for at in num_folds]
        self.fitted[method.name] = list(zip(settled, parts, strict=False))
        result = fit(self.problem, settled[-1])[method.name]
        if method.source and result.selected_on is not None:
            log.warning(
                "%s: without val, what it chooses on problem.selection it chooses on train images that the network has "
                "learned; return a RebalancedHead with selected_on=None if it chooses nothing",
                method.name,
            )
        if not is_open:
            return result
        chosen = {name: getattr(settled[-1], name)[0] for name in RATES if len(getattr(config, name)) > 1}
        result = dataclasses.replace(result, params=result.params | chosen, selected_on=self.problem.selected_on)
        return self.or_joint(config, result)

    def or_joint(self, config: RebalanceConfig, result: RebalancedHead) -> RebalancedHead:
        """Return the joint head where it is better on the folds than a method whose settings were chosen.

        A fold keeps its joint head where that one is better on the other folds.
        """
        name, by, counts = config.method, config.select_by, self.problem.class_counts
        ours, folds = self.held_out(config, {name: result}, unchanged)[name], self.folds[self.folds >= 0]

        def compared(ids: NDArray[np.int64]) -> tuple[float, float]:
            joint, best = (accuracy_of(each.take(ids), by, counts) for each in (self.joint, ours))
            return joint, best

        kept = RebalancedHead(head=self.problem.head, params={JOINT: True}, selected_on=result.selected_on)
        for fold, head in enumerate(self.heads):
            joint, best = compared(np.flatnonzero(folds != fold))
            if joint > best + TOLERANCE:
                self.fitted[name][fold] = config, RebalancedHead(head=head, params=kept.params)
        joint, best = compared(np.arange(len(folds)))
        if joint <= best + TOLERANCE:
            return result
        say_joint(name, by, self.name, joint, best)
        return kept

    def held_out(
        self, config: RebalanceConfig, results: dict[str, RebalancedHead], complete: Complete
    ) -> dict[str, Predictions]:
        """Return predictions of the images of all folds, in their order, by heads fitted to the other folds.

        A method of the user's own, which may have chosen something on the fold, chooses it again on parts of the fold.
        """
        found = {}
        for name in results:
            parts = []
            for at, (settled, result) in enumerate(self.fitted[name]):
                fold = self.fold(at, with_train=result.selected_on is not None)
                parts.append(cross_validate(fold, settled, {name: result}, fit, complete)[name])
            found[name] = self.in_order(parts)
        return found

    def in_order(self, parts: list[Predictions]) -> Predictions:
        """Return the predictions of every fold in the order of the training images."""
        images = np.concatenate([np.flatnonzero(self.folds == fold) for fold in range(NUM_FOLDS)])
        return Predictions.joined(parts).take(np.argsort(images))

    def temperature(self, method: str, head: LinearHead) -> float:
        """Return the geometric mean of the folds' temperatures, each relative to the spread of the fold's logits."""
        ratios = []
        for at, (_, result) in enumerate(self.fitted[method]):
            features, labels = self.fold(at).selection_tensors()
            ratios.append(fit_temperature(result.head, features, labels) / spread_of(result.head, features))
        spread = spread_of(head.to(self.problem.device), self.problem.training_tensors()[0])
        return spread * math.exp(sum(map(math.log, ratios)) / len(ratios))


Validation = ValidationSplit | TrainFolds
"""What heads are chosen on and calibrated by."""


def validate(problem: Problem, *, place: str, seed: int) -> Validation:
    """Return what a problem's heads are chosen on and calibrated by: its selection split, or folds of train.

    Args:
        problem: The problem.
        place: Where val would be, for the warning that there is none.
        seed: Seed of the folds.

    Raises:
        ValueError: There is no val, and train has too few images.
    """
    if problem.selected_on != "train":
        return ValidationSplit(problem=problem)
    log.warning(
        "no val in %s: choices, accuracies and temperatures come from %d folds of train, each by heads that were "
        "fitted to the others; the network has learned these images, so accuracies are mostly too high and "
        "confidences too sure: only the order of classifiers counts",
        place,
        NUM_FOLDS,
    )
    return TrainFolds(problem, seed=seed)


def selection_of(result: RebalancedHead, config: RebalanceConfig) -> str | None:
    """Return what was maximised when a head's settings were chosen, and where; None if they were given."""
    if result.selected_on is None:
        return None
    return f"{config.select_by} on {'folds of train' if result.selected_on == 'train' else result.selected_on}"


def unchanged(result: RebalancedHead, features: Tensor, labels: Tensor) -> LinearHead:
    """Return the head: a temperature would move no answer."""
    return result.head
