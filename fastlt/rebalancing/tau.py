"""tau-normalization: divide every class's weight vector by a power of its norm."""

from __future__ import annotations

import math

import torch

from ..models import LinearHead


def tau_normalize(head: LinearHead, tau: float) -> LinearHead:
    """Return the head with weights w_j / ||w_j||^tau and no bias.

    The paper's tau-normalized classifier (Kang et al., 2020, section 4.2). tau = 0 keeps the weights, tau = 1 gives
    every class the same norm. A class whose weights are all zero keeps them.

    Args:
        head: The joint head, weight [C, D]; its bias is dropped, as in the released code.
        tau: The exponent, from 0 up.

    Raises:
        ValueError: tau is negative or not finite, or the weights are not finite.
    """
    if not math.isfinite(tau) or tau < 0:
        raise ValueError(f"tau: got {tau}; expected a finite number from 0 up")
    weight = head.weight.detach()
    if not torch.isfinite(weight).all():
        raise ValueError("head: its weight has entries that are not finite; it comes from a run that diverged")
    norms = torch.linalg.vector_norm(weight.double(), dim=1, keepdim=True)
    scale = torch.where(norms > 0, norms, 1.0) ** -tau
    rebalanced = (weight.double() * scale).to(weight.dtype)
    if not torch.isfinite(rebalanced).all():
        raise ValueError(
            f"--tau: got {tau:g}, which takes weights out of {weight.dtype}'s range; expected about 0 to 2"
        )
    return LinearHead(rebalanced)
