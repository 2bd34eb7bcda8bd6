"""The start: parts that are not trained keep the weights they begin with, so these should be pretrained ones."""

from __future__ import annotations

from ..config import TrainConfig


def check_start(config: TrainConfig) -> str | None:
    """Return a warning if what is not trained would stay random, else None.

    Args:
        config: The settings asked for, of a run that begins.
    """
    if not config.train_only or config.init is not None or config.synthetic:
        return None
    return (
        f"--train-only {' '.join(config.train_only)} without --init: all else keeps the random weights it begins with; "
        "give pretrained ones (--init FILE), or name more parts"
    )
