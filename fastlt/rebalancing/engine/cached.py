"""Train a grid of linear heads on cached features: one batched product per step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from ...config import RebalanceConfig
from ...features.arrays import Features
from ...models import LinearHead
from ...runtime.device import autocast, resolve_precision
from ..problem import Problem, RebalancedHead
from .batches import FeatureBatches
from .grids import HeadGrid
from .selection import select_head
from .sgd import GridSGD, HeadTraining, Retraining


def retrain(method: Retraining, problem: Problem, config: RebalanceConfig, **params: float) -> RebalancedHead:
    """Train a method's heads on cached features and return the best; `params` describe all of them.

    Raises:
        ValueError: Features or settings do not fit, or the loss of every head is no longer finite.
    """
    check_features(problem.train, problem.head)
    training = HeadTraining.of(method, problem, config)
    grid = method.start(problem.head, config, len(training.settings))
    train_grid(grid, training, problem)
    return select_head(grid, training, problem, config, **params)


def train_grid(grid: HeadGrid, training: HeadTraining, problem: Problem) -> None:
    """Train all heads of a grid on a problem's training features, in the order of `LongTailSampler`.

    Raises:
        ValueError: The loss of every head is no longer finite.
    """
    device = problem.device
    batches = FeatureBatches(problem.train, device)
    sampler = training.sampler(problem.train[0].labels, problem.head.num_classes)
    class_counts = torch.from_numpy(problem.class_counts).to(device)
    optimizer = GridSGD(grid, training)
    # Products in bf16 on a GPU; on a CPU features are fp32 and stay so
    precision = resolve_precision("auto", device) if device.type == "cuda" else "fp32"
    losses = torch.zeros(1)
    for step in range(training.epochs * len(sampler)):
        epoch = step // len(sampler)
        features, labels = batches.take(sampler.batch(step), (training.seed, step))
        with autocast(device, precision):
            logits = grid.logits(features)
        losses = training.losses(logits, labels, class_counts, epoch)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step(epoch)
    training.check_losses(losses)


def check_features(views: Iterable[Features], head: LinearHead) -> None:
    """Raise a ValueError unless the training features fit the head and every class has some."""
    num_classes = head.num_classes
    for view in views:
        if view.num_features != head.num_features:
            raise ValueError(
                f"features: got width {view.num_features}; expected {head.num_features}, the width of the classifier: "
                "they come from another network"
            )
        counts = np.bincount(view.labels, minlength=num_classes)
        if len(counts) > num_classes:
            raise ValueError(f"labels: got class {len(counts) - 1}; expected 0 to {num_classes - 1}")
        if (counts == 0).any():
            raise ValueError(
                f"features: got no training images of class {int(np.argmin(counts))}; expected at least one a class"
            )
