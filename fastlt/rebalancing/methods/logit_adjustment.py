"""Logit adjustment: subtract a multiple of the training classes' log prior from the bias."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike

from ...config import RebalanceConfig
from ...models import LinearHead
from ...runtime.log import log
from ..curve import prior_curve
from ..engine.selection import best_on, choosing_by
from ..problem import Problem, RebalancedHead


def fit(problem: Problem, config: RebalanceConfig) -> RebalancedHead:
    """Return the adjusted head, with the strength as given or the best on the selection split, exactly."""
    strength, selected_on = config.fixed_strength(), None
    if strength is None:
        strength = best_on(prior_curve, problem, config.select_by)
        selected_on = problem.selected_on
        by = config.select_by.replace("_", " ")
        log.info("strength = %.3f, the best %s accuracy on %s", strength, by, selected_on)
    if problem.head.bias is None:
        log.info("logit adjustment added a bias: the classifier had none")
    adjusted = adjust_logits(problem.head, problem.class_counts, strength)
    return RebalancedHead(head=adjusted, params={"strength": strength}, selected_on=selected_on)


CHOOSING = choosing_by(prior_curve, "strength")


def adjust_logits(head: LinearHead, class_counts: ArrayLike, tau: float = 1.0) -> LinearHead:
    """Return the head with bias b - tau log(prior) (Menon et al., 2021, post-hoc logit adjustment).

    Args:
        head: The joint head; one without a bias gets one.
        class_counts: [C] training images of every class; a tensor may be on any device.
        tau: Strength; 0 keeps the head, 1 is Bayes-optimal for balanced test data if its probabilities are calibrated.

    Returns:
        The head, weight [C, D] as it was and bias [C].

    Raises:
        ValueError: tau is negative or not finite, a class has no images, or there are not C classes.

    Example:
        >>> import torch
        >>> from fastlt.models import LinearHead
        >>> from fastlt.rebalancing import adjust_logits
        >>> head = LinearHead(torch.eye(2), torch.zeros(2))
        >>> features = torch.tensor([[1.0, 0.5]])
        >>> head(features).argmax(1).item(), adjust_logits(head, [90, 10])(features).argmax(1).item()
        (0, 1)
    """
    if not math.isfinite(tau) or tau < 0:
        raise ValueError(f"tau: got {tau}; expected a finite number from 0 up")
    counts = torch.as_tensor(class_counts, dtype=torch.float64).cpu().numpy()
    if counts.shape != (head.num_classes,):
        raise ValueError(f"class_counts: got shape {list(counts.shape)}; expected [{head.num_classes}]")
    if not (counts > 0).all():
        empty = int(np.argmin(counts))
        raise ValueError(
            f"class_counts: got {counts[empty]:g} for class {empty}; expected at least 1, as log(0) is not finite"
        )
    prior = torch.from_numpy(np.log(counts / counts.sum())).to(head.weight.device)
    weight = head.weight.detach().clone()
    bias = torch.zeros(len(weight), device=weight.device) if head.bias is None else head.bias.detach()
    return LinearHead(weight, (bias.double() - tau * prior).to(weight.dtype))
