"""The choice of a head on the selection split: the best of a grid, and never one below the joint head."""

from __future__ import annotations

from ...config import RebalanceConfig
from ...evaluation.classifier import JOINT
from ...runtime.log import log
from ..problem import Problem, RebalancedHead
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
    log.info(
        "%s: the joint classifier has the best %s accuracy on %s, %.1f %% against %.1f %%, so it is kept as it is",
        name,
        by.replace("_", " "),
        problem.selected_on,
        100 * joint,
        100 * best,
    )
    return RebalancedHead(head=problem.head, params={JOINT: True}, selected_on=result.selected_on)


def check_single_setting(config: RebalanceConfig) -> None:
    """Raise a ValueError if the settings leave a choice, since there is no split to choose on."""
    for name, values in (("lr", config.lr), ("weight_decay", config.weight_decay)):
        if len(values) > 1:
            raise ValueError(
                f"{name}: got {len(values)} values; expected one, as there is no split to choose on; give one"
            )
