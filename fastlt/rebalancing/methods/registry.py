"""The registry of methods, one row each and the users' own, and the fitting of one or all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...config import RebalanceConfig
from ...config.plugins import own_method
from ...evaluation.classifier import Classifier
from ...evaluation.results import Results
from ...features.arrays import Features
from ..engine.selection import Choosing, choosing_rates, or_joint
from ..engine.sgd import Retraining
from ..problem import Problem, RebalancedHead
from . import cosine, crt, logit_adjustment, los, lws, max_norm, ncm, own, released_ncm, tau


@dataclass(frozen=True, kw_only=True)
class Method:
    """A rebalancing method."""

    name: str
    """Its name in `config.METHODS`, or the one under which the user registered it."""
    fit: Callable[[Problem, RebalanceConfig], RebalancedHead]
    """Makes the rebalanced head."""
    uses_training_features: Callable[[RebalanceConfig], bool] = lambda config: True
    """Whether it looks at the training images."""
    training: Retraining | None = None
    """How it trains by SGD on cached features; None for a method that computes its head."""
    settings: Choosing | None = None
    """How its settings are chosen; None for one of the user's own, or without any but those of a training."""
    live: Retraining | None = None
    """How it trains on live images; None if it cannot."""
    released_live: bool = False
    """Whether the released code trains it on live images, with BatchNorm drifting."""
    score_released: Callable[[Classifier, Features, Iterable[str]], Results] | None = None
    """Scores the released code's variants that no linear head represents; they are written beside its results."""
    quick: bool = True
    """Whether it takes no more than seconds on cached features."""
    source: str | None = None
    """The function of a method of the user's own, as `module:function`."""

    @property
    def choosing(self) -> Choosing | None:
        """How its settings are chosen on several splits together; None if it has none to choose."""
        return choosing_rates(self.fit) if self.training is not None else self.settings


REGISTRY = {
    method.name: method
    for method in (
        Method(
            name="tau",
            fit=tau.fit,
            settings=tau.CHOOSING,
            uses_training_features=lambda config: config.tau == "learned",
        ),
        Method(name="crt", fit=crt.fit, training=crt.CRT, live=crt.CRT, released_live=True),
        Method(name="lws", fit=lws.fit, training=lws.LWS, live=lws.LWS, released_live=True),
        Method(name="ncm", fit=ncm.fit, score_released=released_ncm.score_released),
        Method(
            name="logit_adjustment",
            fit=logit_adjustment.fit,
            settings=logit_adjustment.CHOOSING,
            uses_training_features=lambda config: False,
        ),
        Method(name="los", fit=los.fit, training=los.LOS, live=los.LOS),
        Method(name="max_norm", fit=max_norm.fit, training=max_norm.MAX_NORM),
        Method(name="cosine", fit=cosine.fit, training=cosine.COSINE),
    )
}


def find(name: str) -> Method:
    """Return a method by its name: one of ours, or of the user's own.

    Raises:
        ValueError: There is none, or its module cannot be imported.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    method = own_method(name)
    return Method(
        name=method.name,
        fit=functools.partial(own.fit, method),
        uses_training_features=lambda config: method.needs_training,
        quick=method.quick,
        source=method.source,
    )


def uses_training_features(config: RebalanceConfig) -> bool:
    """Return whether any of a configuration's methods looks at the training images."""
    return any(find(name).uses_training_features(config) for name in config.methods)


def fit(problem: Problem, config: RebalanceConfig) -> dict[str, RebalancedHead]:
    """Fit the method of a configuration, or all of them; where settings are chosen, the joint head is a candidate.

    Raises:
        ValueError: Features or settings do not fit.
    """
    heads = {}
    for name in config.methods:
        method = find(name)
        made = method.fit(problem, config)
        # The head of a user's own method is what they want to see
        heads[name] = made if method.source else or_joint(name, made, problem, config.select_by)
    return heads
