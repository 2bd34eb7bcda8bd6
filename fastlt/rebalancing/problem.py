"""What a rebalancing method is given, and what it gives back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from ..config import SHOT_GROUPS, RebalanceConfig
from ..features.arrays import Features
from ..features.store import FeatureStore
from ..metrics import shot_accuracy, shot_groups
from ..models import LinearHead

# Shapes: N samples, C classes, D feature width.


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A trained linear head and the features it sees: all that a method on cached features needs.

    Example:
        >>> import torch
        >>> from fastlt.features import Features
        >>> from fastlt.models import LinearHead
        >>> from fastlt.rebalancing import Problem
        >>> train = Features.of(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
        >>> problem = Problem.of_features(LinearHead(torch.tensor([[3.0, 0.0], [0.0, 1.0]])), train)
        >>> problem.class_counts.tolist(), problem.head.norms().tolist()
        ([2, 1], [3.0, 1.0])
        >>> features, labels = problem.training_tensors()
        >>> features.shape, labels.tolist(), problem.accuracy(problem.head)
        (torch.Size([3, 2]), [0, 0, 1], 1.0)
    """

    head: LinearHead
    """The joint head, weight [C, D]."""
    train: tuple[Features, ...]
    """Views of the training images, the first under the evaluation transform; none if no method needs them."""
    selection: Features
    """The split on which settings are chosen; without val, the training images, which the network has learned."""
    selected_on: str
    """Its name in the results: val, folds (of val), train or test."""
    class_counts: NDArray[np.int64]
    """[C] the training images of every class."""
    device: torch.device
    """Where the arithmetic runs."""
    batch_size: int = 512
    """Stage 1's batch size, the default of trained methods."""
    dataset: str = ""
    """Stage 1's data set, which decides the defaults of trained methods."""
    seed: int = 0
    """The settings' seed."""
    select_by: str = "class_mean"
    """The accuracy by which settings are chosen."""

    @classmethod
    def of_features(cls, head: LinearHead, train: Features) -> Problem:
        """Return the problem of a head and training features alone, without a split to choose on.

        Args:
            head: The joint head.
            train: Features of the training images.
        """
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
        """Return the problem of a run's head.

        Args:
            store: The run's features.
            config: Says where and by which accuracy settings are chosen, and the seed.
            num_views: Number of views of the training images; 0 for a method that needs none, as long as there is val.
        """
        run, is_val = store.run, config.selection_split == "val"
        split = store.validation_split if is_val else config.selection_split
        return cls(
            head=store.head,
            train=store.views(max(num_views, split == "train")),
            selection=store.split(split),
            selected_on="train" if split == "train" else config.select_on,
            class_counts=np.asarray(run.data["class_counts"], dtype=np.int64),
            device=store.device,
            batch_size=run.config.batch_size,
            dataset=run.config.dataset,
            seed=config.seed,
            select_by=config.select_by,
        )

    def copy(self) -> Problem:
        """Return the same problem for a function that may change what it is given: the head is another one.

        Features are read-only arrays, of which `training_tensors` and `selection_tensors` make copies.
        """
        return replace(
            self,
            head=copy.deepcopy(self.head),
            train=tuple(view.read_only() for view in self.train),
            selection=self.selection.read_only(),
            class_counts=self.class_counts.copy(),
        )

    def training_tensors(self, view: int = 0) -> tuple[Tensor, Tensor]:
        """Return features [N, D] and labels [N] of the training images, on the device.

        Args:
            view: The view: 0 for the evaluation transform.
        """
        return self.train[view].tensors(self.device)

    def selection_tensors(self) -> tuple[Tensor, Tensor]:
        """Return features [N, D] and labels [N] of the selection split, on the device."""
        return self.selection.tensors(self.device)

    @torch.inference_mode()
    def accuracy(self, head: LinearHead, by: str | None = None) -> float:
        """Return a head's accuracy on the selection split, a fraction, by which settings are chosen.

        Args:
            head: The head.
            by: all, class_mean, many, medium or few; by default `select_by`.

        Raises:
            ValueError: The group that decides has no images.
        """
        by = by or self.select_by
        check_group(by, self.selection.labels, self.class_counts, self.selected_on)
        features, labels = self.selection_tensors()
        bias = None if head.bias is None else head.bias.detach()
        ranks = ops.label_rank(features, head.weight.detach(), labels, bias=bias)
        # A right prediction equals the label; for a wrong one, the class does not matter
        predictions = torch.where(ranks == 0, labels, (labels + 1) % max(head.num_classes, 2))
        accuracy = shot_accuracy(predictions.cpu().numpy(), self.selection.labels, self.class_counts)
        value: float = getattr(accuracy, by)
        return value


@dataclass(frozen=True, kw_only=True)
class RebalancedHead:
    """A rebalanced head, its settings, and the split on which they were chosen."""

    head: LinearHead
    params: dict[str, Any] = field(default_factory=dict)
    """The settings, which results show."""
    selected_on: str | None = None
    """`Problem.selected_on` if they were chosen on `Problem.selection`; None if they were given."""


def check_group(by: str, labels: NDArray[np.int64], class_counts: NDArray[np.int64], where: str) -> None:
    """Raise a ValueError unless the accuracy that decides has images among those to choose on.

    Args:
        by: all, class_mean, many, medium or few.
        labels: Their labels.
        class_counts: [C] training images of every class.
        where: What these images are.
    """
    if by in SHOT_GROUPS and not shot_groups(class_counts)[by][labels].any():
        raise ValueError(f"--select-by: got {by}; expected a group with images in {where}; choose class_mean or all")
