"""Batches of cached training features: from the device if they fit, else row by row from their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.sampler import LongTailSampler
from ...features.arrays import ROWS, Features, as_tensor
from ...ops.backend import row_width
from ...runtime.device import on_device
from ...runtime.machine import free_bytes

# Shapes: V views, N images, S steps of an epoch, B batch, D feature width.

RESIDENT_SHARE = 0.5  # of the free memory that training features may take to stay on the device
KEPT_SHARE = 0.25  # of the free memory that what is computed from all of them may take
VIEWS_STREAM = 0x76696577  # separates the random choice of views from all other draws


class FeatureBatches:
    """Batches of training features, in which each image is one of its views, drawn anew in every step.

    Args:
        views: The training features, one element a view.
        device: Where the batches go.

    Attributes:
        table: Rows of all views, one view after the other, on the device, [V N, ...]: features in their own precision,
            or what `keep` computed from them; None if they do not fit.
    """

    def __init__(self, views: Sequence[Features], device: torch.device) -> None:
        self.views, self.device = views, device
        needed = sum(view.features.nbytes for view in views)
        self.table = self.resident() if needed <= RESIDENT_SHARE * free_bytes(device) else None

    def resident(self) -> Tensor:
        """Return the features of all views on the device; those of a single one are not copied on the CPU."""
        first = as_tensor(self.views[0].features)
        if len(self.views) == 1:
            return first.to(self.device)
        table = torch.empty(len(self.views), *first.shape, dtype=first.dtype, device=self.device)
        for place, view in zip(table, self.views, strict=True):
            place.copy_(as_tensor(view.features))
        return table.flatten(0, 1)

    def keep(self, function: Callable[[Tensor], Tensor], width: int) -> None:
        """Make the table that of a function of the features, from [n, D] to [n, width]; its rows may be wider."""
        kept: Tensor | None = None
        num_rows = len(self.views) * len(self.views[0])
        for start in range(0, num_rows, ROWS):
            stop = min(start + ROWS, num_rows)
            features = self.read(np.arange(start, stop)) if self.table is None else self.table[start:stop].float()
            values = function(features)
            if kept is None:
                kept = values.new_empty(num_rows, row_width(values, width))
            kept[start:stop, :width] = values
        self.table = kept

    def epoch(self, sampler: LongTailSampler, epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each step of an epoch, rows of the table [B], or else their features [B, D]; and labels [B].

        Rows and labels of all the epoch's steps are copied to the device at once, so that no step waits for them.

        Args:
            sampler: The order of the images.
            epoch: From 0.
            seed: Decides, with the step, each image's view.
        """
        steps = range(epoch * len(sampler), (epoch + 1) * len(sampler))
        ids = np.stack([sampler.batch(step) for step in steps])
        labels = on_device(torch.from_numpy(self.views[0].labels[ids]), self.device)
        if len(self.views) > 1:
            chosen = [self.chosen_views((seed, step), ids.shape[1]) for step in steps]
            ids += np.stack(chosen) * len(self.views[0])
        if self.table is None:
            for rows, of_step in zip(ids, labels, strict=True):
                yield self.read(rows), of_step
        else:
            yield from zip(on_device(torch.from_numpy(ids), self.device), labels, strict=True)

    def chosen_views(self, key: tuple[int, int], number: int) -> NDArray[np.int64]:
        """Return the views of a step's images, [B]; `key` (seed, step) decides them."""
        generator = np.random.Generator(np.random.Philox(key=[key[0], (VIEWS_STREAM << 32) + key[1]]))
        return generator.integers(len(self.views), size=number)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Return features of rows of all views, float32 [B, D], from their files."""
        chosen, ids = np.divmod(rows, len(self.views[0]))
        if len(self.views) == 1:
            return self.views[0].rows(ids, self.device)
        features = torch.empty(len(ids), self.views[0].num_features, device=self.device)
        for view in np.unique(chosen):
            places = np.flatnonzero(chosen == view)
            features[on_device(torch.from_numpy(places), self.device)] = self.views[view].rows(ids[places], self.device)
        return features
