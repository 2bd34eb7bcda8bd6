"""The choice of settings: on the selection split, never below the joint head there, or on several splits together."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...config import RebalanceConfig
from ...evaluation.classifier import JOINT
from ...evaluation.predictions import Predictions, predict
from ...metrics import shot_accuracy
from ...models import LinearHead
from ...runtime.log import log
from ..curve import TauCurve
from ..problem import Problem, RebalancedHead, check_group
from .grids import HeadGrid
from .sgd import HeadTraining

TOLERANCE = 1e-9  # accuracies closer than this differ only by rounding


def select_head(
    grid: HeadGrid, training: HeadTraining, problem: Problem, config: RebalanceConfig, **params: float
) -> RebalancedHead:
    """Return the finite head that is the best on the selection split, the first of equals; `params` describe all.

    Raises:
        ValueError: No head is finite, or the group that decides has no images.
    """
    settings = training.settings
    if training.label_smoothing is not None:
        params["smoothing"] = training.label_smoothing
    heads = {index: grid.head(index) for index in range(len(settings))}
    finite = [index for index, head in heads.items() if all(p.isfinite().all() for p in head.parameters())]
    if not finite:
        rates = ", ".join(f"{setting.lr:g}" for setting in settings)
        raise ValueError(
            f"--lr: got {rates}, after which no classifier is finite; expected a rate that converges; lower it"
        )
    if len(settings) == 1:
        return RebalancedHead(head=heads[0], params=params, selected_on=None)
    best = max(finite, key=lambda index: problem.accuracy(heads[index], config.select_by))
    return RebalancedHead(head=heads[best], params=params | settings[best]._asdict(), selected_on=problem.selected_on)


def or_joint(name: str, result: RebalancedHead, problem: Problem, by: str) -> RebalancedHead:
    """Return the joint head where it is better than a method's on the very split that chose that one's settings.

    Args:
        name: The method.
        result: Its head; one whose settings were given is returned unchanged.
        problem: The problem.
        by: The accuracy by which settings were chosen.

    Raises:
        ValueError: The group that decides has no images.
    """
    if result.selected_on is None:
        return result
    best, joint = problem.accuracy(result.head, by), problem.accuracy(problem.head, by)
    if joint <= best + TOLERANCE:
        return result
    say_joint(name, by, problem.selected_on, joint, best)
    return RebalancedHead(head=problem.head, params={JOINT: True}, selected_on=result.selected_on)


def say_joint(name: str, by: str, where: str, joint: float, best: float) -> None:
    """Say that the joint head is better than a method's, by accuracies that are fractions."""
    log.info(
        "%s: the joint classifier has the best %s accuracy on %s, %.1f %% against %.1f %%, so it is kept as it is",
        name,
        by.replace("_", " "),
        where,
        100 * joint,
        100 * best,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choosing:
    """How a method's settings are chosen on the selection splits of several problems together."""

    is_open: Callable[[RebalanceConfig], bool]
    """Whether a configuration leaves a choice."""
    explore: Callable[[Problem, RebalanceConfig], Any]
    """Returns what the selection split of one problem says of every setting."""
    settle: Callable[[Sequence[Any], RebalanceConfig, NDArray[np.int64]], RebalanceConfig]
    """Returns the configuration with the settings that are the best on all splits together, given what each says of
    them, and the training images [C] of every class."""


Curve = Callable[[LinearHead, Tensor, Tensor, NDArray[np.int64]], TauCurve]
"""From a head, features [N, D], labels [N] and class counts [C] to the accuracy at every value of a setting."""


def best_on(curve: Curve, problem: Problem, by: str) -> float:
    """Return the value of a setting that is the best on a problem's selection split, exactly.

    Raises:
        ValueError: The group that decides has no images.
    """
    check_group(by, problem.selection.labels, problem.class_counts, problem.selected_on)
    return curve(problem.head, *problem.selection_tensors(), problem.class_counts).best(by).tau


def choosing_by(curve: Curve, setting: str) -> Choosing:
    """Return how a setting that is auto becomes the best on several splits together, exactly."""

    def explore(problem: Problem, config: RebalanceConfig) -> TauCurve:
        return curve(problem.head, *problem.selection_tensors(), problem.class_counts)

    def settle(curves: Sequence[TauCurve], config: RebalanceConfig, class_counts: NDArray[np.int64]) -> RebalanceConfig:
        best: dict[str, Any] = {setting: repr(TauCurve.joined(curves, class_counts).best(config.select_by).tau)}
        return dataclasses.replace(config, **best)

    return Choosing(is_open=lambda config: getattr(config, setting) == "auto", explore=explore, settle=settle)


def choosing_rates(fit: Callable[[Problem, RebalanceConfig], RebalancedHead]) -> Choosing:
    """Return how several learning rates and weight decays of a trained method become one of each.

    A pair with which a training diverges is not chosen, as long as another one is left.
    """

    def explore(problem: Problem, config: RebalanceConfig) -> list[Predictions | None]:
        found: list[Predictions | None] = []
        for single in single_settings(config):
            try:
                head = fit(problem, single).head
            except ValueError as error:
                fault = error
                found.append(None)
            else:
                found.append(predict(head, *problem.selection_tensors()))
        if not any(found):
            raise fault
        return found

    def settle(
        splits: Sequence[list[Predictions | None]], config: RebalanceConfig, class_counts: NDArray[np.int64]
    ) -> RebalanceConfig:
        values = []
        for parts in zip(*splits, strict=True):  # a setting each
            whole = [part for part in parts if part is not None]
            together = Predictions.joined(whole) if len(whole) == len(parts) else None
            values.append(-1.0 if together is None else accuracy_of(together, config.select_by, class_counts))
        return single_settings(config)[int(np.argmax(values))]

    return Choosing(is_open=lambda config: len(single_settings(config)) > 1, explore=explore, settle=settle)


def single_settings(config: RebalanceConfig) -> list[RebalanceConfig]:
    """Return a configuration for every pair of its learning rates and weight decays."""
    rates: list[tuple[float, ...]] = [(rate,) for rate in config.lr] or [()]
    decays: list[tuple[float, ...]] = [(decay,) for decay in config.weight_decay] or [()]
    return [
        dataclasses.replace(config, lr=rate, weight_decay=decay) for rate, decay in itertools.product(rates, decays)
    ]


def accuracy_of(predictions: Predictions, by: str, class_counts: NDArray[np.int64]) -> float:
    """Return the accuracy by which settings are chosen, a fraction; the group that decides has images."""
    value: float = getattr(shot_accuracy(predictions.classes, predictions.labels, class_counts), by)
    return value


def check_single_setting(config: RebalanceConfig) -> None:
    """Raise a ValueError if the settings leave a choice, since there is no split to choose on."""
    for name, values in (("lr", config.lr), ("weight_decay", config.weight_decay)):
        if len(values) > 1:
            raise ValueError(
                f"{name}: got {len(values)} values; expected one, as there is no split to choose on; give one"
            )
