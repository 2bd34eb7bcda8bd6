"""How long a training on cached features takes on this machine, from a few steps of it."""

from __future__ import annotations

import time

import torch

from ...config import RebalanceConfig
from ..problem import Problem
from .cached import trainings
from .folds import NUM_FOLDS
from .sgd import GridSGD, Retraining

NUM_STEPS = 2  # that are timed, after one that warms up


def training_seconds(method: Retraining, problem: Problem, config: RebalanceConfig, *, by_folds: bool = False) -> float:
    """Return about how long a method's training and its cross-validation take at most, seconds.

    Only several learning rates or weight decays are a choice, which every fold makes by a training of its own.

    Args:
        method: The training.
        problem: The problem.
        config: Its settings.
        by_folds: Whether the head itself is trained once more for every fold, as without val.
    """
    attempts = trainings(method, problem, config)
    training = attempts[0]
    num_samples = len(problem.train[0])
    grid = method.start(problem.head, config, len(training.settings))
    optimizer = GridSGD(grid, training)
    features = torch.ones(training.batch_size, problem.head.num_features, device=problem.device)
    labels = torch.arange(training.batch_size, device=problem.device) % problem.head.num_classes
    counts = torch.from_numpy(problem.class_counts).to(problem.device)
    began = 0.0
    for step in range(NUM_STEPS + 1):
        if step == 1:
            began = time.perf_counter()
        optimizer.learn(features, labels, counts, 0)
    grid.parameters()[0].sum().item()  # waits for the device
    a_step = (time.perf_counter() - began) / NUM_STEPS
    # The one on all images, then those that choose and those whose heads are scored
    num_trainings = 1 + NUM_FOLDS * ((len(training.settings) > 1) + (by_folds or len(training.settings) > 1))
    num_epochs = sum(attempt.epochs for attempt in attempts)
    return a_step * num_epochs * max(1, num_samples // training.batch_size) * num_trainings
