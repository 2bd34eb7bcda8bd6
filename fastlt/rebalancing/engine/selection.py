"""The choice of one head of a grid: the best on the selection split."""

from __future__ import annotations

import math

import torch

from ... import ops
from ...config import RebalanceConfig
from ...metrics import shot_accuracy
from ...models import LinearHead
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
    best = max(finite, key=lambda index: selection_accuracy(heads[index], problem, config.select_by))
    return RebalancedHead(head=heads[best], params=params | settings[best]._asdict(), selected_on=problem.selected_on)


@torch.inference_mode()
def selection_accuracy(head: LinearHead, problem: Problem, select_by: str) -> float:
    """Return the accuracy on the selection split by which settings are chosen, a fraction.

    Raises:
        ValueError: The group that decides has no images.
    """
    features, labels = problem.selection_tensors()
    ranks = ops.label_rank(
        features, head.weight.detach(), labels, bias=None if head.bias is None else head.bias.detach()
    )
    # A right prediction equals the label; for a wrong one, the class does not matter
    predictions = torch.where(ranks == 0, labels, (labels + 1) % max(head.num_classes, 2))
    accuracy = shot_accuracy(predictions.cpu().numpy(), problem.selection.labels, problem.class_counts)
    value: float | None = getattr(accuracy, select_by)
    if value is None or math.isnan(value):
        raise ValueError(
            f"--select-by: got {select_by}; expected a group with images in {problem.selected_on}; choose class_mean "
            "or all"
        )
    return value


def check_single_setting(config: RebalanceConfig) -> None:
    """Raise a ValueError if the settings leave a choice, since there is no split to choose on."""
    for name, values in (("lr", config.lr), ("weight_decay", config.weight_decay)):
        if len(values) > 1:
            raise ValueError(
                f"{name}: got {len(values)} values; expected one, as there is no split to choose on; give one"
            )
