"""What a rebalancing method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..features.arrays import Features
from ..models import LinearHead


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A trained linear head and the features it sees: all that a method on cached features needs.

    `train` has one or more views of the training images, the first under the evaluation transform; `selection` is
    the split on which settings are chosen, named by `selected_on`. `class_counts` is int64 [C], the training images
    of every class; `device` is where the arithmetic runs. `stage1` holds stage 1's batch_size and dataset, which
    decide the defaults of trained methods.
    """

    head: LinearHead
    train: tuple[Features, ...]
    selection: Features
    selected_on: str
    class_counts: NDArray[np.int64]
    device: torch.device
    stage1: Mapping[str, Any] = field(default_factory=dict)

    def selection_tensors(self) -> tuple[Tensor, Tensor]:
        """Return features [N, D] and labels [N] of the selection split, on the device."""
        return self.selection.tensors(self.device)


@dataclass(frozen=True, kw_only=True)
class Rebalanced:
    """A rebalanced head, what it was made with, and the split on which that was chosen (None: it was given)."""

    head: LinearHead
    params: dict[str, Any]
    selected_on: str | None


def problem_of(head: LinearHead, train: Features, device: torch.device) -> Problem:
    """Return the problem of a head and training features alone, without a split to choose on."""
    counts = np.bincount(train.labels, minlength=head.num_classes).astype(np.int64)
    return Problem(
        head=head,
        train=(train,),
        selection=train,
        selected_on="train",
        class_counts=counts,
        device=torch.device(device),
    )
