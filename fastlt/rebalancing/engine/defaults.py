"""How trained methods step: the paper's SGD, its learning rates and epochs of stage 2."""

from __future__ import annotations

import numpy as np
import torch

from ...features.arrays import Features
from ...recipes.stage2 import stage2

MOMENTUM = 0.9
SAMPLE = 4096  # features that the curvature is taken from
POWER_STEPS = 30


def default_epochs(method: str, dataset: str) -> int:
    """Return the paper's epochs of stage 2: 5 for LWS, else 10, on iNaturalist 30."""
    settings = stage2(dataset)
    return settings.lws_epochs if method == "lws" else settings.crt_epochs


def default_weight_decay(dataset: str) -> float:
    """Return the paper's weight decay of stage 2: 5e-4, on iNaturalist 1e-4."""
    return stage2(dataset).weight_decay


def default_rate(features: Features, num_classes: int, device: torch.device) -> float:
    """Return the learning rate for features [N, D]: the inverse of cross entropy's curvature at uniform predictions.

    Gradient descent with momentum 0.9 is stable up to 3.8 times that.
    """
    return num_classes / largest_moment(features, device)


@torch.inference_mode()
def largest_moment(features: Features, device: torch.device) -> float:
    """Return the largest eigenvalue of the features' second moment E[x x^T], by power iteration on a sample."""
    ids = np.linspace(0, len(features) - 1, min(SAMPLE, len(features))).round().astype(np.int64)
    x = features.rows(ids, device)
    vector = torch.ones(x.shape[1], device=device)
    value = torch.zeros((), device=device)
    for _ in range(POWER_STEPS):
        vector = x.T @ (x @ vector) / len(x)
        value = torch.linalg.vector_norm(vector)
        vector = vector / value.clamp(min=1e-30)
    return max(float(value), 1e-12)
