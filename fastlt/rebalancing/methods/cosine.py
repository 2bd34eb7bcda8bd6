"""A cosine classifier: retrained on unit vectors, so that no class is longer than another."""

from __future__ import annotations

from ...config import RebalanceConfig
from ..engine.stacks import UnitStack, started
from ..engine.train import HeadTraining, check_features, choose, cross_entropy, train_heads
from ..problem import Problem, Rebalanced

FIRST_SCALE = 16.0  # of the logits; learned from there


def make(problem: Problem, config: RebalanceConfig) -> Rebalanced:
    """Retrain on class-balanced draws with logits s cos(w_j, x), s learned (Gidaris and Komodakis, 2018).

    As a linear head it is (s w_j / ||w_j||, no bias): the length of x, left out, scales an image's logits alike.
    """
    check_features(problem.train, problem.head, problem.head.num_classes)
    recipe = HeadTraining.of("cosine", problem, config)
    heads = started(problem.head.num_classes, problem.head.num_features, recipe.seeds, problem.device)
    stack = UnitStack(heads, len(recipe.settings), scale=FIRST_SCALE)
    train_heads(stack, problem.train, recipe, cross_entropy(problem), problem.device)
    return choose(stack, recipe, problem, config)
