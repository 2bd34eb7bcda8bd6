"""What a network of any family offers; a new family is a file beside this one and a line in `create_model`."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .head import HEAD, LinearHead

# Shapes: B batch, C classes, D feature width, H, W image size.


class Network(nn.Module, abc.ABC):
    """A backbone and the linear head `fc` behind it.

    Attributes:
        fc: The head.
        num_features: Feature width, D.
        arguments: Arguments with which its library builds it, besides its name.
    """

    fc: LinearHead
    num_features: int
    arguments: Mapping[str, Any] = {}

    @abc.abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Map images to features.

        Args:
            images: [B, 3, H, W].

        Returns:
            [B, D].
        """

    @abc.abstractmethod
    def stages(self) -> list[nn.Module]:
        """Return the backbone's parts from input to output, for fine-tuning the last; one part if it has no stages.

        The first part is the stem. Each later part is a stage; the last one includes all that follows it.
        """

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits.

        Args:
            images: [B, 3, H, W].

        Returns:
            [B, C].
        """
        logits: Tensor = self.fc(self.features(images))
        return logits

    def checkpoint_names(self) -> dict[str, str]:
        """Return our name of each tensor -> its name in torchvision, or in the network's own library."""
        return {name: name for name in self.state_dict()}

    def adapt(self, weights: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
        """Fit weights that were trained at another image size to this network.

        Args:
            weights: The weights, by this network's names.

        Returns:
            (the weights, a note on how they were changed: empty if they were not).
        """
        return weights, ""

    def shape_flags(self) -> str:
        """Return the flags that decide the shapes of the tensors, for messages."""
        return "--backbone"

    def preprocessing(self) -> Mapping[str, Any]:
        """Return how the network's library prepares images, in terms of timm's `pretrained_cfg`; empty if unknown."""
        return {}

    def pooling(self) -> str | None:
        """Return how the network pools features, in timm's terms; None if unknown."""
        return None


def cut(modules: Sequence[nn.Module], starts: Iterable[int]) -> list[nn.Module]:
    """Return modules in groups: those before the first of `starts`, and those from each start to the next."""
    places = sorted({0, *starts, len(modules)})
    return [nn.ModuleList(modules[start:stop]) for start, stop in itertools.pairwise(places)]


def in_head(name: str) -> bool:
    """Return whether a tensor of a network belongs to its head.

    Args:
        name: The tensor's name in the network's state dict.
    """
    return name.startswith(f"{HEAD}.")
