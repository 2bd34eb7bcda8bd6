"""Classifier retraining: a new linear classifier on frozen features, in class-balanced order."""

from __future__ import annotations

import torch
from torch import Tensor

from ...config import RebalanceConfig
from ...features.arrays import Features
from ...losses import LDAM_SCALE
from ...models import LinearHead
from ..engine.stacks import LinearStack, UnitStack, started
from ..engine.train import HeadTraining, Stack, check_features, choose, single, terms, train_heads
from ..problem import Problem, Rebalanced, problem_of


def make(problem: Problem, config: RebalanceConfig) -> Rebalanced:
    """Re-initialise the classifier and train it on class-balanced draws (Kang et al., 2020, section 4.1).

    With another loss than cross entropy the draws are instance-balanced: the loss does the balancing. LDAM's classifier
    is one of unit vectors, as its authors have it.
    """
    check_features(problem.train, problem.head, problem.head.num_classes)
    sampling = "class_balanced" if config.loss == "cross_entropy" else "instance_balanced"
    recipe = HeadTraining.of("crt", problem, config, sampling=sampling)
    heads = started(problem.head.num_classes, problem.head.num_features, recipe.seeds, problem.device)
    stack: Stack
    if config.loss == "ldam":
        stack = UnitStack(heads, len(recipe.settings), scale=1.0, learn_scale=False)
    else:
        stack = LinearStack(heads, len(recipe.settings))
    train_heads(stack, problem.train, recipe, terms(config.loss, problem), problem.device)
    made = choose(stack, recipe, problem, config)
    if config.loss == "ldam":  # the scale is the loss's: folded in, confidences are what was trained
        scaled = LinearHead(made.head.weight.detach() * LDAM_SCALE)
        return Rebalanced(head=scaled, params=made.params, selected_on=made.selected_on)
    return made


def retrain_classifier(
    features: Tensor, labels: Tensor, num_classes: int, *, config: RebalanceConfig | None = None
) -> LinearHead:
    """Train a new linear classifier on class-balanced draws (classifier re-training, cRT).

    Args:
        features: [N, D] train features.
        labels: int [N].
        num_classes: C.
        config: Epochs (10), batch size (512, at most N), learning rate (0.2 for a batch of 512, in proportion), weight
            decay (5e-4), loss and seed; one learning rate and one weight decay.

    Raises:
        ValueError: Shapes do not fit, features are not finite, or a class has none.
    """
    config = single(config or RebalanceConfig(method="crt"))
    start = LinearHead(torch.zeros(num_classes, features.shape[-1], device=features.device))
    return make(problem_of(start, Features.of(features, labels), features.device), config).head
