"""Train a grid of linear heads on cached features: one batched product per step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...config import RebalanceConfig
from ...features.arrays import Features
from ...losses import own_loss
from ...models import LinearHead
from ...recipes.stage2 import PAPERS
from ...runtime.graphs import Replayed
from ...runtime.log import log
from ...runtime.machine import free_bytes
from ..problem import Problem, RebalancedHead
from .batches import KEPT_SHARE, FeatureBatches
from .grids import HeadGrid
from .selection import select_head
from .sgd import GridSGD, HeadTraining, Retraining

LONGEST = 8  # times the default epochs, to which a training may go on
BUDGET = 3e11  # multiplications in all of a method's trainings, under a minute on a CPU
LEAST = 1e7  # multiplications that take about as long as everything else in a step
ROWS = 512  # of features classified at a time


def retrain(method: Retraining, problem: Problem, config: RebalanceConfig, **params: float) -> RebalancedHead:
    """Train a method's heads on cached features and return the best; `params` describe all of them.

    Raises:
        ValueError: Features or settings do not fit, or the loss of every head is no longer finite.
    """
    check_features(problem.train, problem.head)
    for number, training in enumerate(trainings(method, problem, config)):
        if number:
            params["epochs"] = training.epochs
        grid = method.start(problem.head, config, len(training.settings))
        train_grid(grid, training, problem)
        result = select_head(grid, training, problem, config, **params)
        missed = missed_classes(result.head, problem)
        if not missed.size:
            return result
    log.warning(
        "%s: after %d epochs, no training image of %d of %d classes is classified right (the first is class %d), "
        "so training has not converged, or the features do not tell these classes apart; try more --epochs or a "
        "higher --lr",
        config.method,
        training.epochs,
        missed.size,
        problem.head.num_classes,
        missed[0],
    )
    return result


def trainings(method: Retraining, problem: Problem, config: RebalanceConfig) -> list[HeadTraining]:
    """Return the trainings to make in turn while classes are left of which no training image is classified right.

    Each has twice the epochs of the one before: on a small set the default epochs are few steps. They end at `LONGEST`
    times the default and at the `BUDGET`, which is the same on every machine, as the result must be. The paper's sets
    and given epochs are left as they are.
    """
    first = HeadTraining.of(method, problem, config)
    if config.epochs is not None or problem.dataset in PAPERS:
        return [first]
    factors = [1]
    size = first.batch_size * problem.head.num_classes * problem.head.num_features * len(first.settings)
    an_epoch = len(problem.train[0]) // first.batch_size * max(size, LEAST)
    while factors[-1] < LONGEST and an_epoch * first.epochs * (sum(factors) + 2 * factors[-1]) <= BUDGET:
        factors.append(2 * factors[-1])
    return [dataclasses.replace(first, epochs=factor * first.epochs) for factor in factors]


def missed_classes(head: LinearHead, problem: Problem) -> NDArray[np.int64]:
    """Return the classes of which a head classifies no training image right."""
    features, head = problem.train[0], head.to(problem.device)
    is_met = np.zeros(problem.head.num_classes, dtype=bool)
    for start in range(0, len(features), ROWS):
        ids = np.arange(start, min(start + ROWS, len(features)))
        with torch.inference_mode():
            classes = head(features.rows(ids, problem.device)).argmax(1).cpu().numpy()
        is_met[classes[classes == features.labels[ids]]] = True
    return np.flatnonzero(~is_met)


def train_grid(grid: HeadGrid, training: HeadTraining, problem: Problem) -> None:
    """Train all heads of a grid on a problem's training features, in the order of `LongTailSampler`.

    On a GPU a step is a CUDA graph, unless the loss is the user's own, which may do what a graph cannot.

    Raises:
        ValueError: The loss of every head is no longer finite.
    """
    device = problem.device
    optimizer = GridSGD(grid, training, torch.from_numpy(problem.class_counts).to(device))
    batches = FeatureBatches(problem.train, device)
    sampler = training.sampler(problem.train[0].labels, problem.head.num_classes)
    are_kept = keeps_inputs(optimizer, training, problem, len(sampler))
    if are_kept:
        batches.keep(optimizer.inputs, grid.kept_width)
    table = batches.table

    def learn(batch: Tensor, labels: Tensor) -> Tensor:
        if are_kept:
            assert table is not None
            return optimizer.learn(table, labels, batch)
        return optimizer.learn(optimizer.inputs(batch if table is None else table[batch]), labels)

    step = Replayed(learn, device, enabled=own_loss(training.loss) is None)
    losses = torch.zeros(1)
    for epoch in range(training.epochs):
        optimizer.begin(epoch)
        for batch, labels in batches.epoch(sampler, epoch, training.seed):
            losses = step(batch, labels)
    training.check_losses(losses)


def keeps_inputs(optimizer: GridSGD, training: HeadTraining, problem: Problem, num_steps: int) -> bool:
    """Return whether what heads see is computed once for all images, which pays off if there are fewer than draws.

    Args:
        optimizer: Has the heads and the precision.
        training: The training.
        problem: The problem.
        num_steps: Steps of an epoch.
    """
    width = optimizer.grid.kept_width
    num_rows = sum(len(view) for view in problem.train)
    size = num_rows * width * (2 if optimizer.precision == "bf16" else 4)
    is_worth_it = num_rows < training.epochs * num_steps * training.batch_size
    return width > 0 and is_worth_it and size <= KEPT_SHARE * free_bytes(problem.device)


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
