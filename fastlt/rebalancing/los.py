"""Label over-smoothing: a new classifier, trained with almost uniform targets."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ..config import RebalanceConfig
from ..features.arrays import Features
from ..models import LinearHead
from .crt import cross_entropy
from .heads import Recipe, check_features, choose, train_heads
from .linear_stack import LinearStack
from .problem import Problem, Rebalanced

# Shapes: N samples, C classes, D feature width.

SAMPLE = 4096  # features that the curvature is taken from
POWER_STEPS = 30


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
    recipe = Recipe.of("los", problem, dataclasses.replace(config, lr=rates))
    weight = torch.zeros(num_classes, problem.head.num_features, device=problem.device)
    stack = LinearStack([LinearHead(weight) for _ in recipe.seeds], len(recipe.settings))
    loss = cross_entropy(problem, label_smoothing=config.label_smoothing)
    train_heads(stack, problem.train, recipe, loss, problem.device)
    return choose(stack, recipe, problem, config, smoothing=config.label_smoothing)


def default_rate(features: Features, num_classes: int, device: torch.device) -> float:
    """Return the learning rate for features [N, D]: the inverse of cross entropy's curvature at uniform predictions.

    Gradient descent with momentum 0.9 is stable up to 3.8 times that.
    """
    return num_classes / largest_moment(features, device)


@torch.inference_mode()
def largest_moment(features: Features, device: torch.device) -> float:
    """Return the largest eigenvalue of the features' second moment E[x x^T], by power iteration on a sample."""
    ids = np.linspace(0, len(features) - 1, min(SAMPLE, len(features))).round().astype(np.int64)
    x = features.rows(ids, device)
    vector = torch.ones(x.shape[1], device=device)
    value = torch.zeros((), device=device)
    for _ in range(POWER_STEPS):
        vector = x.T @ (x @ vector) / len(x)
        value = torch.linalg.vector_norm(vector)
        vector = vector / value.clamp(min=1e-30)
    return max(float(value), 1e-12)
