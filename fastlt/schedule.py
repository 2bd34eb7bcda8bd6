"""The learning rate over the epochs of a training."""

from __future__ import annotations

import math

from .config import TrainConfig


def cosine(epoch: int, epochs: int, protocol: str = "paper") -> float:
    """Return the share of the base learning rate in an epoch: (1 + cos(pi t / T)) / 2 with T epochs.

    The paper's intent is t = epoch; the released code steps its scheduler first, so that t = epoch + 1 and the last
    epoch runs at rate 0.

    Args:
        epoch: From 0.
        epochs: T.
        protocol: paper or released.
    """
    t = epoch + (protocol == "released")
    return 0.5 * (1 + math.cos(math.pi * t / epochs))


def learning_rate(config: TrainConfig, epoch: int, share: float = 0.0) -> float:
    """Return the learning rate in an epoch: the base rate times `cosine`.

    During the warm-up it is multiplied by the share of the warm-up's steps that are done, this one included.

    Args:
        config: Has the base rate, the schedule and the warm-up.
        epoch: From 0.
        share: Share of the epoch's steps that are done, the current one included.
    """
    rate = config.lr * cosine(epoch, config.epochs, config.schedule or config.protocol)
    return rate * (epoch + share) / config.warmup_epochs if epoch < config.warmup_epochs else rate
