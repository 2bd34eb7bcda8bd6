"""Learnable weight scaling: one learned scale a class, the directions of the weights stay."""

from __future__ import annotations

from torch import Tensor

from ...config import RebalanceConfig
from ...features.arrays import Features
from ...models import LinearHead
from ..engine.stacks import ScaleStack
from ..engine.train import HeadTraining, check_features, choose, cross_entropy, single, train_heads
from ..problem import Problem, Rebalanced, problem_of


def make(problem: Problem, config: RebalanceConfig) -> Rebalanced:
    """Learn s in logit_j = s_j (w_j x + b_j) on class-balanced draws, from s = 1 (Kang et al., 2020, section 4.3).

    As in the released code the scales multiply the bias too, and are decayed.
    """
    check_features(problem.train, problem.head, problem.head.num_classes)
    recipe = HeadTraining.of("lws", problem, config)
    stack = ScaleStack(problem.head, len(recipe.seeds), len(recipe.settings))
    train_heads(stack, problem.train, recipe, cross_entropy(problem), problem.device)
    return choose(stack, recipe, problem, config)


def learn_weight_scaling(
    head: LinearHead, features: Tensor, labels: Tensor, *, config: RebalanceConfig | None = None
) -> LinearHead:
    """Learn one scale a class on class-balanced draws and fold it into weights and bias.

    Args:
        head: The joint head, weight [C, D].
        features: [N, D] train features.
        labels: int [N].
        config: Epochs (5), batch size (512, at most N), learning rate (0.2 for a batch of 512, in proportion), weight
            decay (5e-4) and seed; one learning rate and one weight decay.

    Raises:
        ValueError: Shapes do not fit, features are not finite, or a class has none.
    """
    config = single(config or RebalanceConfig(method="lws"))
    return make(problem_of(head, Features.of(features, labels), features.device), config).head
