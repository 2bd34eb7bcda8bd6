"""tau-normalization: divide every class's weight vector by a power of its norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...config import RebalanceConfig
from ...features.arrays import chunks
from ...models import LinearHead
from ...runtime.log import log
from ..curve import tau_curve
from ..engine.cached import check_features
from ..engine.selection import best_on, choosing_by
from ..problem import Problem, RebalancedHead

LARGEST_TAU = 2.0  # of the range that the paper searches
GOLDEN = (math.sqrt(5) - 1) / 2
TOLERANCE = 1e-3  # of a learned tau


def fit(problem: Problem, config: RebalanceConfig) -> RebalancedHead:
    """Return the tau-normalized head, with tau as given, the best on the selection split, or learned in training."""
    tau, selected_on = config.fixed_tau(), None
    if config.tau == "learned":
        tau = learn_tau(problem)
        log.info("tau = %.3f, learned on class-balanced training features", tau)
    elif tau is None:
        tau = best_on(tau_curve, problem, config.select_by)
        selected_on = problem.selected_on
        log.info("tau = %.3f, the best %s accuracy on %s", tau, config.select_by.replace("_", " "), selected_on)
    return RebalancedHead(head=tau_normalize(problem.head, tau), params={"tau": tau}, selected_on=selected_on)


CHOOSING = choosing_by(tau_curve, "tau")


def learn_tau(problem: Problem) -> float:
    """Return the tau in [0, 2] with the least cross entropy on the training features, every class weighing the same.

    Norms are taken relative to their geometric mean, so that tau changes their spread and not the size of the logits. A
    scan of the range in tenths is followed by a golden-section search around the best.
    """
    check_features(problem.train[:1], problem.head)
    features, labels = problem.train[0].tensors(problem.device)
    counts = torch.bincount(labels, minlength=problem.head.num_classes).double()
    weight = problem.head.weight.detach()
    log_norms = torch.linalg.vector_norm(weight.double(), dim=1).clamp(min=1e-30).log()
    log_norms = (log_norms - log_norms.mean()).float()

    @torch.inference_mode()
    def losses(taus: list[float]) -> list[float]:
        scales = torch.exp(-torch.tensor(taus, device=weight.device)[:, None] * log_norms)  # [T, C]
        sums = torch.zeros(len(taus), dtype=torch.float64, device=weight.device)
        for rows, chunk in chunks(features):
            z: Tensor = F.linear(chunk, weight)
            share = 1 / counts[labels[rows]]
            for index, scale in enumerate(scales):
                loss = F.cross_entropy(z * scale, labels[rows], reduction="none").double()
                sums[index] += (share * loss).sum()
        return sums.tolist()

    grid = [index / 10 for index in range(int(10 * LARGEST_TAU) + 1)]
    scanned = losses(grid)
    best = grid[scanned.index(min(scanned))]
    low, high = max(0.0, best - 0.1), min(LARGEST_TAU, best + 0.1)
    while high - low > TOLERANCE:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left_loss, right_loss = losses([left, right])
        low, high = (low, right) if left_loss <= right_loss else (left, high)
    return (low + high) / 2


def tau_normalize(head: LinearHead, tau: float) -> LinearHead:
    """Return the head with weights w_j / ||w_j||^tau and no bias.

    This is the tau-normalized classifier of Kang et al. (2020, section 4.2). tau = 0 keeps the weights, tau = 1 gives
    every class the same norm. A class whose weights are all zero keeps them.

    Args:
        head: The joint head, weight [C, D]; its bias is dropped, as in the released code.
        tau: The exponent, from 0 up.

    Returns:
        The head, weight [C, D] in the dtype and on the device of the joint head's.

    Raises:
        ValueError: tau is negative or not finite, the weights are not finite, or the result is not.

    Example:
        >>> import torch
        >>> from fastlt.models import LinearHead
        >>> from fastlt.rebalancing import tau_normalize
        >>> head = LinearHead(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> tau_normalize(head, 0.0).norms().tolist(), tau_normalize(head, 1.0).norms().tolist()
        ([5.0, 1.0], [1.0, 1.0])
    """
    if not math.isfinite(tau) or tau < 0:
        raise ValueError(f"tau: got {tau}; expected a finite number from 0 up")
    weight = head.weight.detach()
    if not torch.isfinite(weight).all():
        raise ValueError(
            "head: got a weight that is not finite; expected finite numbers; it comes from a run that diverged"
        )
    norms = torch.linalg.vector_norm(weight.double(), dim=1, keepdim=True)
    scale = torch.where(norms > 0, norms, 1.0) ** -tau
    rebalanced = (weight.double() * scale).to(weight.dtype)
    if not torch.isfinite(rebalanced).all():
        raise ValueError(
            f"--tau: got {tau:g}, which takes weights out of the range of {weight.dtype}; expected about 0 to 2; "
            "lower it"
        )
    return LinearHead(rebalanced)
