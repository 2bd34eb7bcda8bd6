"""Weight balancing: retrain the classifier with weight decay and no weight vector longer than a radius."""

from __future__ import annotations

from ...config import RebalanceConfig
from ..engine.stacks import LinearStack
from ..engine.train import HeadTraining, check_features, choose, cross_entropy, train_heads
from ..problem import Problem, Rebalanced


def make(problem: Problem, config: RebalanceConfig) -> Rebalanced:
    """Train the joint classifier on, on class-balanced draws, with weight decay and max-norm (Alshammari et al., 2022).

    After each step weights longer than the radius are brought back to it; the radius is the median norm of the joint
    classifier's weights, so that the head gives way and the tail may grow.
    """
    check_features(problem.train, problem.head, problem.head.num_classes)
    recipe = HeadTraining.of("max_norm", problem, config)
    radius = float(problem.head.norms().median())
    stack = LinearStack([problem.head] * len(recipe.seeds), len(recipe.settings), radius=radius)
    train_heads(stack, problem.train, recipe, cross_entropy(problem), problem.device)
    return choose(stack, recipe, problem, config, radius=radius)
