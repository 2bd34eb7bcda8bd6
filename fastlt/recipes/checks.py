"""Warnings of likely mistakes: a learning rate far from the linear rule, and parts that stay random."""

from __future__ import annotations

import math

from ..config import TrainConfig

TOLERANCE = 1.5  # a rate within this factor of the rule's is taken as deliberate


def check_linear_rule(config: TrainConfig, recipe: TrainConfig) -> str | None:
    """Return a warning if the ratio of learning rate to batch size is far from the recipe's, else None.

    Most failed reproductions changed only the batch size.

    Source: Goyal et al., Accurate, large minibatch SGD (2017), section 2.1; the paper uses 0.2 for 512 images.

    Args:
        config: The user's settings.
        recipe: The recipe's settings.
    """
    share = config.batch_size / recipe.batch_size
    expected = recipe.lr * share
    if abs(math.log(config.lr / expected)) <= math.log(TOLERANCE):
        return None
    backbone = "" if recipe.backbone_lr is None else f" and --backbone-lr {recipe.backbone_lr * share:.4g}"
    return (
        f"--lr {config.lr:g} with --batch-size {config.batch_size}: the recipe has {recipe.lr:g} with "
        f"{recipe.batch_size}, which by the linear rule is --lr {expected:.4g}{backbone} here; accuracies will"
        " not be comparable"
    )


def check_start(config: TrainConfig) -> str | None:
    """Return a warning if parts that are not trained would stay random, else None.

    Args:
        config: The settings of a new run.
    """
    if not config.train_only or config.init is not None or config.synthetic:
        return None
    return (
        f"--train-only {' '.join(config.train_only)} without --init: all other parts keep their random weights; "
        "give pretrained ones (--init FILE), or name more parts"
    )
