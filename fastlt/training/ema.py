"""The exponential moving average of a network's weights, and the linear head that replaces a cosine head."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from ..models import LinearHead, Network


class MovingAverage:
    """A copy of a network whose weights and running statistics are moving averages of the network's.

    After step t (from 1) the average a becomes d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)), so that the
    random start soon loses its influence.

    Args:
        model: The network, whose tensors may only change in place.
        decay: Weight of the old average in each step, 0 to 1.

    Attributes:
        network: The copy.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.network = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        pairs = list(zip(self.network.state_dict().values(), model.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, weights = zip(*self._floats, strict=True)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        if self._counters:
            averages, weights = zip(*self._counters, strict=True)
            torch._foreach_copy_(averages, weights)


@contextlib.contextmanager
def with_cosine_head(model: Network, *, enabled: bool) -> Iterator[None]:
    """Give a network trained with cosine logits, inside a block, a linear head that makes the same predictions.

    The cosine of x and w_j orders classes as x . w_j / ||w_j|| does, so the head has rows of unit length and no bias.
    """
    if not enabled:
        yield
        return
    trained = model.fc
    bias = None if trained.bias is None else torch.zeros_like(trained.bias)
    model.fc = LinearHead(F.normalize(trained.weight.detach(), dim=1), bias)
    try:
        yield
    finally:
        model.fc = trained
