"""Label over-smoothing: a new classifier, trained with almost uniform targets."""

from __future__ import annotations

from ..config import RebalanceConfig
from .crt import cross_entropy
from .heads import Recipe, check_features, choose, train_heads
from .linear_stack import LinearStack, started
from .problem import Problem, Rebalanced


def make(problem: Problem, config: RebalanceConfig) -> Rebalanced:
    """Retrain the classifier on instance-balanced draws with label smoothing alone (Sun et al., 2025).

    With nearly all of a label's mass spread over all classes, logits stay so small that the norms of the weights no
    longer follow the class sizes.
    """
    check_features(problem.train, problem.head, problem.head.num_classes)
    recipe = Recipe.of("los", problem, config, sampling="instance_balanced")
    heads = started(problem.head.num_classes, problem.head.num_features, recipe.seeds, problem.device)
    stack = LinearStack(heads, len(recipe.settings))
    loss = cross_entropy(problem, label_smoothing=config.label_smoothing)
    train_heads(stack, problem.train, recipe, loss, problem.device)
    return choose(stack, recipe, problem, config, smoothing=config.label_smoothing)
