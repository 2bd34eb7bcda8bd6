"""Weight balancing: retrain the classifier with weight decay and no weight vector longer than a radius."""

from __future__ import annotations

from ...config import RebalanceConfig
from ...models import LinearHead
from ..engine.cached import retrain
from ..engine.grids import LinearGrid
from ..engine.sgd import Retraining
from ..problem import Problem, RebalancedHead


def radius_of(head: LinearHead) -> float:
    """Return the median norm of a head's weights, so that the head classes give way and the tail may grow."""
    return float(head.norms().median())


def start(head: LinearHead, config: RebalanceConfig, num_settings: int) -> LinearGrid:
    """Return the joint head, to be kept within the radius."""
    return LinearGrid(head, num_settings, radius=radius_of(head))


MAX_NORM = Retraining(start=start)


def fit(problem: Problem, config: RebalanceConfig) -> RebalancedHead:
    """Train the joint classifier on, on class-balanced draws, with weight decay and max-norm (Alshammari et al., 2022).

    After each step weights longer than the radius are brought back to it.
    """
    return retrain(MAX_NORM, problem, config, radius=radius_of(problem.head))
