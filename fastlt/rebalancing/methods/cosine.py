"""A cosine classifier: retrained on unit vectors, so that no class has a longer weight vector than another."""

from __future__ import annotations

from ...config import RebalanceConfig
from ...models import LinearHead
from ..engine.cached import retrain
from ..engine.grids import CosineGrid, new_head
from ..engine.sgd import Retraining
from ..problem import Problem, RebalancedHead

FIRST_SCALE = 16.0  # of the logits; learned from there


def start(head: LinearHead, config: RebalanceConfig, num_settings: int) -> CosineGrid:
    """Return new heads on unit vectors."""
    return CosineGrid(new_head(head, config.seed), num_settings, scale=FIRST_SCALE)


COSINE = Retraining(start=start)


def fit(problem: Problem, config: RebalanceConfig) -> RebalancedHead:
    """Retrain on class-balanced draws with logits s cos(w_j, x), s learned (Gidaris and Komodakis, 2018).

    The linear head is (s w_j / ||w_j||, no bias); it leaves out the length of x, which scales an image's logits alike.
    """
    return retrain(COSINE, problem, config)
