"""The sources of a recipe's values: released code, published tables, an author's word, or us."""

from __future__ import annotations

import dataclasses

from ..config import TrainConfig
from ..config.base import is_changeable

CODE = "released code"
"""Found in the configurations or code that the paper's authors released, or computed by that code."""
TABLE = "published table"
"""Printed in the paper or in the authors' README, or confirmed by a second published source."""
AUTHOR = "author's word"
"""Stated by an author where no configuration was released."""
CAO = "code of Cao et al. 2019"
"""Found in the code of the paper that most work on CIFAR-LT follows (LDAM-DRW)."""
OURS = "ours"
"""Chosen here, since nothing is published."""

PAPER: dict[str, str] = {
    "epochs": TABLE,
    "batch_size": CODE,
    "lr": CODE,
    "momentum": CODE,
    "weight_decay": CODE,
    "sampling": TABLE,
    "schedule": CODE,
    "warmup_epochs": CODE,
    "backbone_lr": CODE,
    "train_only": CODE,
    "loss": TABLE,
    "image_size": CODE,
    "crop_scale": CODE,
    "crop_ratio": CODE,
    "flip": CODE,
    "color_jitter": CODE,
    "eval_resize": CODE,
    "mean": CODE,
    "std": CODE,
    "backbone": TABLE,
}
"""Sources of the values that the paper's three benchmarks share."""

NOT_RECIPE = ("dataset", "strict", "synthetic", "synthetic_size")
"""Settings that no recipe sets, besides those that may change when a run is resumed."""

OF_CIFAR = ("imbalance", "data_seed")
"""Settings that count only in recipes that name a source for them."""


def complete(sources: dict[str, str]) -> dict[str, str]:
    """Return a source for every setting of a recipe; `OURS` where `sources` has none."""
    fields = [field for field in dataclasses.fields(TrainConfig) if not is_changeable(field)]
    names = [field.name for field in fields if field.name not in NOT_RECIPE]
    return {name: sources.get(name, OURS) for name in names if name in sources or name not in OF_CIFAR}
