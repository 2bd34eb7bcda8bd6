"""Label over-smoothing: a new classifier, trained with almost uniform targets."""

from __future__ import annotations

from ..config import RebalanceConfig
from .crt import cross_entropy
from .heads import Recipe, check_features, choose, train_heads
from .linear_stack import LinearStack, started
from .problem import Problem, Rebalanced

RATE = 20.0
"""Times the paper's learning rate of cRT: targets close to uniform leave small gradients. The best on glyphs_lt's val
of 2.5, 5, 10, 20, 40 and 80."""


def make(problem: Problem, config: RebalanceConfig) -> Rebalanced:
    """Retrain the classifier on class-balanced draws with nearly all of a label's mass spread over all classes.

    Label over-smoothing (Sun et al., 2025): logits stay so small that the norms of the weights no longer follow the
    class sizes. Instance-balanced draws fit the head first and do not reach the tail within the epochs of cRT, so draws
    are class-balanced here.
    """
    check_features(problem.train, problem.head, problem.head.num_classes)
    recipe = Recipe.of("los", problem, config, rate=RATE)
    heads = started(problem.head.num_classes, problem.head.num_features, recipe.seeds, problem.device)
    stack = LinearStack(heads, len(recipe.settings))
    loss = cross_entropy(problem, label_smoothing=config.label_smoothing)
    train_heads(stack, problem.train, recipe, loss, problem.device)
    return choose(stack, recipe, problem, config, smoothing=config.label_smoothing)
