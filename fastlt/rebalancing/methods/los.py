"""Label over-smoothing: a new classifier, trained with almost uniform targets."""

from __future__ import annotations

import dataclasses

import torch

from ...config import RebalanceConfig
from ...models import LinearHead
from ..engine.defaults import default_rate
from ..engine.stacks import LinearStack
from ..engine.train import HeadTraining, check_features, choose, cross_entropy, train_heads
from ..problem import Problem, Rebalanced

# Shapes: N samples, C classes, D feature width.


def make(problem: Problem, config: RebalanceConfig) -> Rebalanced:
    """Retrain the classifier on class-balanced draws with nearly all of a label's mass spread over all classes.

    Label over-smoothing (Sun et al., 2025): logits stay so small that the norms of the weights no longer follow the
    class sizes. Instance-balanced draws fit the head first and do not reach the tail within the epochs of cRT, so draws
    are class-balanced here. Targets close to uniform leave small gradients, so the head starts from zero, where
    predictions are uniform and no random weights have to be forgotten, and its learning rate is by default the inverse
    of the loss's curvature there.
    """
    check_features(problem.train, problem.head, problem.head.num_classes)
    num_classes = problem.head.num_classes
    rates = config.lr or (default_rate(problem.train[0], num_classes, problem.device),)
    recipe = HeadTraining.of("los", problem, dataclasses.replace(config, lr=rates))
    weight = torch.zeros(num_classes, problem.head.num_features, device=problem.device)
    stack = LinearStack([LinearHead(weight) for _ in recipe.seeds], len(recipe.settings))
    loss = cross_entropy(problem, label_smoothing=config.label_smoothing)
    train_heads(stack, problem.train, recipe, loss, problem.device)
    return choose(stack, recipe, problem, config, smoothing=config.label_smoothing)
