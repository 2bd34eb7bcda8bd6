"""Batches of cached training features: from the device if they fit, else row by row from their files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...features.arrays import Features, as_tensor
from ...runtime.device import on_device
from ...runtime.machine import free_bytes

# Shapes: B batch, D feature width.

RESIDENT_SHARE = 0.5  # of the free memory that training features may take to stay on the device
VIEWS_STREAM = 0x76696577  # separates the random choice of views from all other draws


class FeatureBatches:
    """Batches of training features, in which each image is one of its views, drawn anew in every step.

    Args:
        views: The training features, one element a view.
        device: Where the batches go.
    """

    def __init__(self, views: Sequence[Features], device: torch.device) -> None:
        self.views, self.device = views, device
        self.labels = as_tensor(views[0].labels).to(device)
        needed = sum(view.features.nbytes for view in views)
        resident = needed <= RESIDENT_SHARE * free_bytes(device)
        self.tensors = [as_tensor(view.features).to(device) for view in views] if resident else None

    def take(self, ids: NDArray[np.int64], key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return features, float32 [B, D], and labels [B] of samples `ids`; `key` (seed, step) decides their views."""
        labels = self.labels[on_device(torch.from_numpy(ids), self.device)]
        if len(self.views) == 1:
            return self.rows(0, ids), labels
        generator = np.random.Generator(np.random.Philox(key=[key[0], (VIEWS_STREAM << 32) + key[1]]))
        chosen = generator.integers(len(self.views), size=len(ids))
        features = torch.empty(len(ids), self.views[0].num_features, device=self.device)
        for view in np.unique(chosen):
            places = np.flatnonzero(chosen == view)
            features[on_device(torch.from_numpy(places), self.device)] = self.rows(int(view), ids[places])
        return features, labels

    def rows(self, view: int, ids: NDArray[np.int64]) -> Tensor:
        """Return rows of one view, float32."""
        if self.tensors is None:
            return self.views[view].rows(ids, self.device)
        return self.tensors[view][on_device(torch.from_numpy(ids), self.device)].float()
