"""Cross-validated accuracy on val: every fold is scored with the settings chosen on the other folds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...config import RebalanceConfig
from ...evaluation.predictions import Predictions, predict
from ...models import LinearHead
from ...runtime.log import only
from ..problem import Problem, RebalancedHead

# Shapes: N samples of val, C classes.

NUM_FOLDS = 5

Fit = Callable[[Problem, RebalanceConfig], Mapping[str, RebalancedHead]]
Complete = Callable[[RebalancedHead, Tensor, Tensor], LinearHead]


def stratified_folds(labels: NDArray[np.int64], *, num_folds: int = NUM_FOLDS, seed: int = 0) -> NDArray[np.int64]:
    """Return a fold for every sample: a class's samples are dealt in turn, in random order, from a random fold on.

    Returns:
        int64 [N], the fold of every sample; a class's shares differ by one sample at most.

    Raises:
        ValueError: There are fewer samples than folds.
    """
    if len(labels) < num_folds:
        raise ValueError(
            f"--select-on: got folds with {len(labels)} val images; expected at least {num_folds}; choose val"
        )
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.random(len(labels)), labels))
    # One deal through all classes, so that the sizes of the folds differ by one at most too
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = (np.arange(len(labels)) + generator.integers(num_folds)) % num_folds
    return folds


def cross_validate(
    problem: Problem, config: RebalanceConfig, results: Mapping[str, RebalancedHead], fit: Fit, complete: Complete
) -> dict[str, Predictions]:
    """Classify every val image under the settings chosen on the other four folds.

    Args:
        problem: The problem, its `selection` all of val.
        config: Method and settings.
        results: The heads with settings chosen on all of val; a method without a choice keeps its head.
        fit: Fits the methods of a configuration.
        complete: Applies what follows the fit (a temperature) to it, given features and labels of the other folds.

    Returns:
        method -> predictions of all N samples, in their order.
    """
    folds = stratified_folds(problem.selection.labels, seed=config.seed)
    choosing = [name for name, result in results.items() if result.selected_on is not None]
    parts: dict[str, list[Predictions]] = {name: [] for name in results}
    for fold in range(NUM_FOLDS):
        rest = dataclasses.replace(problem, selection=problem.selection.take(np.flatnonzero(folds != fold)))
        chosen = dict(results)
        with only(logging.WARNING):  # the choices on all of val are in the log already
            for name in choosing:
                chosen |= fit(rest, dataclasses.replace(config, method=name))
        inside = problem.selection.take(np.flatnonzero(folds == fold)).tensors(problem.device)
        for name, result in chosen.items():
            head = complete(result, *rest.selection_tensors()).to(problem.device)
            parts[name].append(predict(head, *inside))
    back = np.argsort(np.argsort(folds, kind="stable"), kind="stable")
    return {name: Predictions.joined(predictions).take(back) for name, predictions in parts.items()}
