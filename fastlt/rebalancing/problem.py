"""What a rebalancing method is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import RebalanceConfig
from ..features.arrays import Features
from ..features.store import FeatureStore
from ..models import LinearHead

# Shapes: N samples, C classes, D feature width.


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A trained linear head and the features it sees: all that a method on cached features needs."""

    head: LinearHead
    train: tuple[Features, ...]
    """Views of the training images, the first under the evaluation transform; none if no method needs them."""
    selection: Features
    """The split on which settings are chosen."""
    selected_on: str
    """Its name in the results."""
    class_counts: NDArray[np.int64]
    """[C] the training images of every class."""
    device: torch.device
    """Where the arithmetic runs."""
    batch_size: int = 512
    """Stage 1's batch size, the default of trained methods."""
    dataset: str = ""
    """Stage 1's data set, which decides the defaults of trained methods."""

    @classmethod
    def of_features(cls, head: LinearHead, train: Features) -> Problem:
        """Return the problem of a head and training features alone, without a split to choose on."""
        return cls(
            head=head,
            train=(train,),
            selection=train,
            selected_on="train",
            class_counts=np.bincount(train.labels, minlength=head.num_classes).astype(np.int64),
            device=head.weight.device,
        )

    @classmethod
    def of_run(cls, store: FeatureStore, config: RebalanceConfig, *, num_views: int) -> Problem:
        """Return the problem of a run's head, with `num_views` views of its training images."""
        run = store.run
        return cls(
            head=store.head,
            train=store.views(num_views),
            selection=store.split(config.selection_split),
            selected_on=config.select_on,
            class_counts=np.asarray(run.data["class_counts"], dtype=np.int64),
            device=store.device,
            batch_size=run.config.batch_size,
            dataset=run.config.dataset,
        )

    def selection_tensors(self) -> tuple[Tensor, Tensor]:
        """Return features [N, D] and labels [N] of the selection split, on the device."""
        return self.selection.tensors(self.device)


@dataclass(frozen=True, kw_only=True)
class RebalancedHead:
    """A rebalanced head, its settings, and the split on which they were chosen (None if they were given)."""

    head: LinearHead
    params: dict[str, Any]
    selected_on: str | None
