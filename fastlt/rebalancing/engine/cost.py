"""How long a training on cached features takes on this machine, from a few steps of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ...config import RebalanceConfig
from ..problem import Problem
from .cached import keeps_inputs, trainings
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
    first, device = attempts[0], problem.device
    grid = method.start(problem.head, config, len(first.settings))
    optimizer = GridSGD(grid, first, torch.from_numpy(problem.class_counts).to(device))
    features = torch.ones(first.batch_size, problem.head.num_features, device=device)
    labels = torch.arange(first.batch_size, device=device) % problem.head.num_classes
    inputs = optimizer.inputs(features)
    map_s = seconds(lambda: optimizer.inputs(features))
    learn_s = seconds(lambda: optimizer.learn(inputs, labels))
    num_steps = max(1, len(problem.train[0]) // first.batch_size)
    total = 0.0
    for training in attempts:
        num_batches = training.epochs * num_steps
        are_kept = keeps_inputs(optimizer, training, problem, num_steps)
        num_mapped = sum(len(view) for view in problem.train) / first.batch_size if are_kept else num_batches
        total += num_batches * learn_s + num_mapped * map_s
    # The one on all images, then those that choose and those whose heads are scored
    is_choice = len(first.settings) > 1
    return total * (1 + NUM_FOLDS * (is_choice + (by_folds or is_choice)))


def seconds(function: Callable[[], Tensor]) -> float:
    """Return how long a function takes."""
    function()
    began = time.perf_counter()
    for _ in range(NUM_STEPS):
        result = function()
    result.sum().item()  # waits for the device
    return (time.perf_counter() - began) / NUM_STEPS
