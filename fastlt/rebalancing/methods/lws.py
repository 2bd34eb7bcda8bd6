"""Learnable weight scaling: one learned scale per class; the directions of the weights stay."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ...config import RebalanceConfig
from ...features.arrays import Features
from ...models import LinearHead
from ...recipes.stage2 import stage2
from ..engine.cached import retrain
from ..engine.grids import ScaleGrid
from ..engine.selection import check_single_setting
from ..engine.sgd import Retraining
from ..problem import Problem, RebalancedHead


def start(head: LinearHead, config: RebalanceConfig, num_settings: int) -> ScaleGrid:
    """Return the joint head under scales of 1."""
    return ScaleGrid(head, num_settings)


LWS = Retraining(start=start, epochs=lambda paper: paper.lws_epochs)


def fit(problem: Problem, config: RebalanceConfig) -> RebalancedHead:
    """Learn s in logit_j = s_j (w_j x + b_j) on class-balanced draws, from s = 1 (Kang et al., 2020, section 4.3).

    As in the released code the scales multiply the bias too, and are decayed.
    """
    return retrain(LWS, problem, config)


def learn_weight_scaling(
    head: LinearHead, features: Tensor, labels: Tensor, *, config: RebalanceConfig | None = None
) -> LinearHead:
    """Learn one scale per class on class-balanced draws and fold the scales into weights and bias.

    This is learnable weight scaling, LWS (Kang et al., 2020, section 4.3): logit_j = s_j (w_j x + b_j), from s = 1.

    Args:
        head: The joint head, weight [C, D].
        features: [N, D] training features, on the head's device.
        labels: Integers [N].
        config: Epochs (5), batch size (512, at most N), learning rate (0.2 for a batch of 512, in proportion), weight
            decay (5e-4) and seed; one learning rate and one weight decay.

    Returns:
        The head (s w, s b).

    Raises:
        ValueError: Shapes do not fit, features are not finite, or a class has none; or there are several learning
            rates or weight decays; or training diverged.

    Example:
        >>> import torch
        >>> from fastlt import RebalanceConfig
        >>> from fastlt.models import LinearHead
        >>> from fastlt.rebalancing import learn_weight_scaling
        >>> head = LinearHead(torch.tensor([[2.0, 0.0], [0.0, 0.5]]))  # the rare class has the smaller weight
        >>> features, labels = torch.tensor([[1.0, 0.0]] * 20 + [[0.5, 1.0]] * 2), torch.tensor([0] * 20 + [1] * 2)
        >>> scaled = learn_weight_scaling(head, features, labels, config=RebalanceConfig(lr=(0.5,)))
        >>> head(features).argmax(1)[-1].item(), scaled(features).argmax(1)[-1].item()
        (0, 1)
    """
    config = config or RebalanceConfig(method="lws")
    check_single_setting(config)
    config = dataclasses.replace(config, epochs=config.epochs or LWS.epochs(stage2("")))
    return fit(Problem.of_features(head, Features.of(features, labels)), config).head
