"""Classifier retraining: a new linear classifier on frozen features, in class-balanced order."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ...config import RebalanceConfig
from ...features.arrays import Features
from ...losses import LDAM_SCALE
from ...models import LinearHead
from ...recipes.stage2 import stage2
from ..engine.cached import retrain
from ..engine.grids import CosineGrid, HeadGrid, LinearGrid, new_head
from ..engine.selection import check_single_setting
from ..engine.sgd import Retraining
from ..problem import Problem, RebalancedHead


def start(head: LinearHead, config: RebalanceConfig, num_settings: int) -> HeadGrid:
    """Return new heads; those for LDAM are on unit vectors, as in its paper."""
    new = new_head(head, config.seed)
    if config.loss == "ldam":
        return CosineGrid(new, num_settings, scale=1.0, learn_scale=False)
    return LinearGrid(new, num_settings)


CRT = Retraining(start=start, uses_loss=True)


def fit(problem: Problem, config: RebalanceConfig) -> RebalancedHead:
    """Re-initialise the classifier and train it on class-balanced draws (Kang et al., 2020, section 4.1)."""
    result = retrain(CRT, problem, config)
    if config.loss == "ldam":  # the scale belongs to the loss; folding it in keeps the trained confidences
        return dataclasses.replace(result, head=LinearHead(result.head.weight.detach() * LDAM_SCALE))
    return result


def retrain_classifier(
    features: Tensor, labels: Tensor, num_classes: int, *, config: RebalanceConfig | None = None
) -> LinearHead:
    """Train a new linear classifier on class-balanced draws.

    This is classifier re-training, cRT (Kang et al., 2020, section 4.1). It needs features and labels only; the joint
    classifier plays no part.

    Args:
        features: [N, D] training features, on the device that trains.
        labels: Integers [N].
        num_classes: Number of classes, C.
        config: Epochs (10), batch size (512, at most N), learning rate (0.2 for a batch of 512, in proportion), weight
            decay (5e-4), loss and seed; one learning rate and one weight decay.

    Returns:
        The new head, weight [C, D] and, except for the loss `ldam`, bias [C].

    Raises:
        ValueError: Shapes do not fit, features are not finite, or a class has none; or there are several learning
            rates or weight decays; or training diverged.

    Example:
        >>> import torch
        >>> from fastlt import RebalanceConfig
        >>> from fastlt.rebalancing import retrain_classifier
        >>> features = torch.tensor([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 2)  # 20 images of one class, 2 of the other
        >>> labels = torch.tensor([0] * 20 + [1] * 2)
        >>> head = retrain_classifier(features, labels, 2, config=RebalanceConfig(lr=(0.5,)))
        >>> head(torch.eye(2)).argmax(1).tolist()
        [0, 1]
    """
    config = config or RebalanceConfig(method="crt")
    check_single_setting(config)
    config = dataclasses.replace(config, epochs=config.epochs or CRT.epochs(stage2("")))
    shape = LinearHead(torch.zeros(num_classes, features.shape[-1], device=features.device))
    return fit(Problem.of_features(shape, Features.of(features, labels)), config).head
