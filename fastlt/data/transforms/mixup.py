"""Mixup: blends of two images and their labels, the same for every number of processes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

STREAM = 0x6D697875  # keeps the draws apart from every other use of the seed

# Shapes: B batch, even.


def draw_share(step: int, *, alpha: float, seed: int) -> float:
    """Return the larger image's share in the blends of a step, drawn from Beta(alpha, alpha): in [0.5, 1].

    It is a pure function of seed and step. Both images of a pair are blended with each other, so a share and its
    complement give the same blends, and the larger one is returned.
    """
    bits = np.random.Philox(key=np.array([seed, STREAM], np.uint64), counter=np.array([0, step, 0, 0], np.uint64))
    share = float(np.random.Generator(bits).beta(alpha, alpha))
    return max(share, 1 - share)


def neighbours(values: Tensor) -> Tensor:
    """Return the partner of every image or label, [B, ...]: slots 0 and 1 are partners, 2 and 3, and so on.

    The images are in random order already, so neighbours are as random as any other pairs, and they stay the same
    however the batch is divided.
    """
    partners: Tensor = values.reshape(-1, 2, *values.shape[1:]).flip(1).flatten(0, 1)
    return partners
