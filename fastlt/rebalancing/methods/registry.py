"""Every method by its name, and how one or all of them are fitted."""

from __future__ import annotations

from collections.abc import Callable

from ...config import METHODS, RebalanceConfig
from ..problem import Problem, Rebalanced
from . import cosine, crt, logit_adjustment, los, lws, max_norm, ncm, tau

MAKERS: dict[str, Callable[[Problem, RebalanceConfig], Rebalanced]] = {
    "tau": tau.make,
    "crt": crt.make,
    "lws": lws.make,
    "ncm": ncm.make,
    "logit_adjustment": logit_adjustment.make,
    "los": los.make,
    "max_norm": max_norm.make,
    "cosine": cosine.make,
}


def needs_training_features(config: RebalanceConfig) -> bool:
    """Say whether a configuration's method looks at the training images."""
    return config.method not in ("tau", "logit_adjustment") or (config.method == "tau" and config.tau == "learned")


def fit(problem: Problem, config: RebalanceConfig) -> dict[str, Rebalanced]:
    """Fit the method of a configuration, or all of them.

    Raises:
        ValueError: Features or settings do not fit.
    """
    names = METHODS if config.method == "all" else (config.method,)
    return {name: MAKERS[name](problem, config) for name in names}
