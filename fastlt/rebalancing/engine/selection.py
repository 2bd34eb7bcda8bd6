"""The choice of one head of a grid: the best on the selection split."""

from __future__ import annotations

from ...config import RebalanceConfig
from ..problem import Problem, RebalancedHead
from .grids import HeadGrid
from .sgd import HeadTraining


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


def check_single_setting(config: RebalanceConfig) -> None:
    """Raise a ValueError if the settings leave a choice, since there is no split to choose on."""
    for name, values in (("lr", config.lr), ("weight_decay", config.weight_decay)):
        if len(values) > 1:
            raise ValueError(
                f"{name}: got {len(values)} values; expected one, as there is no split to choose on; give one"
            )
