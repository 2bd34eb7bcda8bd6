"""Cross-validated accuracy on val: every fold is scored with what the other folds chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from .. import ops
from ..config import RebalanceConfig
from ..evaluation import Result, accuracies
from ..metrics import class_hits
from .problem import Problem, Rebalanced

# Shapes: N samples of val, C classes.

NUM_FOLDS = 5

Fit = Callable[[Problem, RebalanceConfig], Mapping[str, Rebalanced]]


def stratified_folds(labels: NDArray[np.int64], *, num_folds: int = NUM_FOLDS, seed: int = 0) -> NDArray[np.int64]:
    """Deal every class's samples to the folds in turn, in random order and from a random fold on.

    Returns:
        int64 [N], the fold of every sample; a class's shares differ by one sample at most.

    Raises:
        ValueError: There are fewer samples than folds.
    """
    if len(labels) < num_folds:
        raise ValueError(
            f"--select-on: got folds with {len(labels)} val images; expected at least {num_folds}, or choose val"
        )
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.random(len(labels)), labels))
    # One deal through the classes, without starting anew: the folds' sizes differ by one at most, too
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = (np.arange(len(labels)) + generator.integers(num_folds)) % num_folds
    return folds


def cross_validated_hits(
    problem: Problem, config: RebalanceConfig, made: Mapping[str, Rebalanced], fit: Fit
) -> dict[str, NDArray[np.bool_]]:
    """Say for every val image whether it is classified right by what the other four folds chose.

    Args:
        problem: The problem, its ``selection`` all of val.
        config: Method and settings.
        made: What all of val chose; a method that chose nothing is scored as it is.
        fit: Makes the methods of a configuration.

    Returns:
        method -> bool [N].
    """
    labels = problem.selection.labels
    folds = stratified_folds(labels, seed=config.seed)
    hits = {name: np.zeros(len(labels), dtype=np.bool_) for name in made}
    choosing = [name for name, each in made.items() if each.selected_on is not None]
    for fold in range(NUM_FOLDS):
        inside = np.flatnonzero(folds == fold)
        rest = dataclasses.replace(problem, selection=problem.selection.take(np.flatnonzero(folds != fold)))
        chosen = dict(made)
        for name in choosing:
            chosen |= fit(rest, dataclasses.replace(config, method=name))
        features, targets = problem.selection.take(inside).tensors(problem.device)
        for name, each in chosen.items():
            head = each.head.to(problem.device)
            with torch.inference_mode():
                ranks = ops.label_rank(features, head.weight, targets, bias=head.bias)
            hits[name][inside] = (ranks == 0).cpu().numpy()
    return hits


def with_hits(
    row: Result, correct: NDArray[np.bool_], labels: NDArray[np.int64], class_counts: NDArray[np.int64]
) -> Result:
    """Return a result with the accuracies of ``correct`` [N] in place of its own."""
    hits, totals = class_hits(correct, labels, len(class_counts))
    return dataclasses.replace(row, **accuracies(hits, totals, class_counts))  # type: ignore[arg-type]
