"""How trained methods step: the paper's SGD, its learning rates and epochs of stage 2."""

from __future__ import annotations

from ..recipes.stage2 import LR_PER_IMAGE, stage2

__all__ = ["LR_PER_IMAGE", "MOMENTUM", "default_epochs", "default_weight_decay"]

MOMENTUM = 0.9


def default_epochs(method: str, dataset: str) -> int:
    """Return the paper's epochs of stage 2: 5 for LWS, else 10, on iNaturalist 30."""
    settings = stage2(dataset)
    return settings.lws_epochs if method == "lws" else settings.crt_epochs


def default_weight_decay(dataset: str) -> float:
    """Return the paper's weight decay of stage 2: 5e-4, on iNaturalist 1e-4."""
    return stage2(dataset).weight_decay
