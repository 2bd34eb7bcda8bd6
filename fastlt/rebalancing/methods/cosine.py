"""A cosine classifier: retrained on unit vectors, so that no class has a longer weight vector than another."""

from __future__ import annotations

import dataclasses
import functools

from torch import Tensor

from ...config import RebalanceConfig
from ...models import LinearHead
from ..engine.cached import check_features, retrain
from ..engine.grids import CosineGrid, new_head
from ..engine.sgd import Retraining
from ..problem import Problem, RebalancedHead
from .ncm import mean

FIRST_SCALE = 16.0  # of the logits; learned from there


def start(head: LinearHead, config: RebalanceConfig, num_settings: int, *, center: Tensor | None = None) -> CosineGrid:
    """Return new heads on unit vectors."""
    return CosineGrid(new_head(head, config.seed), num_settings, scale=FIRST_SCALE, center=center)


COSINE = Retraining(start=start)


def fit(problem: Problem, config: RebalanceConfig) -> RebalancedHead:
    """Retrain on class-balanced draws with logits s cos(w_j, x - m), s learned (Gidaris and Komodakis, 2018).

    m is the mean training feature, as in `ncm`: features after a ReLU all point about the same way, so that without it
    cosines hardly differ, s vanishes, and whole classes are never predicted. The linear head has the weights v_j =
    s w_j / ||w_j|| and the bias -v_j m; it leaves out the length of x - m, which scales an image's logits alike.
    """
    check_features(problem.train, problem.head)
    center = mean(problem.training_tensors()[0])
    return retrain(dataclasses.replace(COSINE, start=functools.partial(start, center=center)), problem, config)
