"""Classifier retraining: a new linear classifier on frozen features, in class-balanced order."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..config import RebalanceConfig
from ..features.arrays import Features
from ..losses import LDAM_SCALE, loss_terms
from ..models import LinearHead
from .heads import LossTerms, Recipe, Stack, check_features, choose, train_heads
from .linear_stack import LinearStack, UnitStack, started
from .problem import Problem, Rebalanced, problem_of


def make(problem: Problem, config: RebalanceConfig) -> Rebalanced:
    """Re-initialise the classifier and train it on class-balanced draws (Kang et al., 2020, section 4.1).

    With another loss than cross entropy the draws are instance-balanced: the loss does the balancing. LDAM's classifier
    is one of unit vectors, as its authors have it.
    """
    check_features(problem.train, problem.head, problem.head.num_classes)
    sampling = "class_balanced" if config.loss == "cross_entropy" else "instance_balanced"
    recipe = Recipe.of("crt", problem, config, sampling=sampling)
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


def terms(loss: str, problem: Problem, *, label_smoothing: float = 0.0) -> LossTerms:
    """Return a loss of this problem's classes, as the engine calls it."""
    counts = torch.from_numpy(problem.class_counts).to(problem.device)

    def call(logits: Tensor, labels: Tensor, share: float) -> Tensor:
        return loss_terms(loss, logits, labels, counts, epoch_fraction=share, label_smoothing=label_smoothing)

    return call


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


def single(config: RebalanceConfig) -> RebalanceConfig:
    """Return the settings if they leave nothing to choose.

    Raises:
        ValueError: There are several learning rates or weight decays, and no split to choose on.
    """
    for name, values in (("lr", config.lr), ("weight_decay", config.weight_decay)):
        if len(values) > 1:
            raise ValueError(f"{name}: got {len(values)} values; without a split to choose on give one")
    return config


cross_entropy = functools.partial(terms, "cross_entropy")
