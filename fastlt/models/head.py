"""The linear head, which every rebalancing method takes and returns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Shapes: N samples, C classes, D feature width.

HEAD = "fc"  # the head's name in every network, and thus the first part of its tensors' names


class LinearHead(nn.Module):
    """A linear classifier, logits = X W^T + b, with torchvision's parameter names.

    Args:
        weight: [C, D], one row per class.
        bias: [C] or None.

    Raises:
        ValueError: `weight` is not a matrix, or `bias` has another number of classes.

    Example:
        >>> import torch
        >>> from fastlt.models import LinearHead
        >>> head = LinearHead(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2))
        >>> head
        LinearHead(num_classes=2, num_features=2, bias=True)
        >>> head.norms()
        tensor([5., 1.])
        >>> head(torch.tensor([[1.0, 1.0]])).tolist()
        [[7.0, 1.0]]
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        if weight.ndim != 2:
            raise ValueError(f"weight: got shape {tuple(weight.shape)}; expected [classes, feature width]")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias: got shape {tuple(bias.shape)}; expected [{len(weight)}], one number a class")
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    @classmethod
    def initialised(
        cls, num_classes: int, num_features: int, *, generator: torch.Generator | None = None
    ) -> LinearHead:
        """Return a head drawn as `nn.Linear` draws it: U(-1/sqrt(D), 1/sqrt(D)) for weight and bias.

        Args:
            num_classes: C.
            num_features: D.
            generator: Generator of the random numbers; by default PyTorch's own.
        """
        bound = 1 / math.sqrt(num_features)
        weight = torch.empty(num_classes, num_features).uniform_(-bound, bound, generator=generator)
        return cls(weight, torch.empty(num_classes).uniform_(-bound, bound, generator=generator))

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return self.weight.shape[0]

    @property
    def num_features(self) -> int:
        """Feature width, D."""
        return self.weight.shape[1]

    def norms(self) -> Tensor:
        """Return the Euclidean norm of every class's weight vector, [C]."""
        norms: Tensor = torch.linalg.vector_norm(self.weight.detach().float(), dim=1)
        return norms

    def forward(self, features: Tensor) -> Tensor:
        """Map features to logits.

        Args:
            features: [N, D].

        Returns:
            [N, C].
        """
        logits: Tensor = F.linear(features, self.weight, self.bias)
        return logits

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"num_classes={self.num_classes}, num_features={self.num_features}, bias={self.bias is not None}"
