"""Grids of linear heads trained side by side, one head per setting: free, on unit vectors, or one scale per class."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models import LinearHead
from ...ops.cross_entropy import heads_cross_entropy, rescaled_cross_entropy

# Shapes: K settings (learning rate x weight decay), B batch, C classes, D feature width.


class HeadGrid(abc.ABC):
    """K heads of one kind that start alike.

    Attributes:
        kept_width: Columns of `inputs` where they are worth computing once for all images, else 0.
    """

    kept_width = 0

    @abc.abstractmethod
    def parameters(self) -> Sequence[Tensor]:
        """Return what is trained, float32, each tensor with a leading dimension K."""

    def leaves(self) -> Sequence[Tensor]:
        """Return what losses are differentiated for: the parameters, or copies of them in the type of products."""
        return self.parameters()

    def multiply_in(self, dtype: torch.dtype) -> None:
        """Compute products in a type from now on, where that is worth a copy of the weights."""
        return

    def inputs(self, features: Tensor) -> Tensor:
        """Map features [B, D] to what the trained part sees, [B, ...], which stays the same throughout a training."""
        return features

    @abc.abstractmethod
    def logits(self, inputs: Tensor) -> Tensor:
        """Map inputs [B, ...] to logits [K, B, C]."""

    def operands(self) -> dict[str, Tensor]:
        """Return the weight [K, C, D] and what else makes logits of features, as `heads_cross_entropy` takes them."""
        raise NotImplementedError

    def cross_entropy(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        rows: Tensor | None = None,
        offset: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return every head's mean cross entropy [K], by one operation; its gradients are those of `leaves` only.

        Args:
            inputs: Of the batch; or a table [N, ...] of which `rows` are the batch.
            labels: [B].
            rows: [B], or None.
            offset: [C], added to the logits, or None.
            label_smoothing: Share of the label's mass that is spread over all classes.
        """
        features = inputs if rows is None else inputs[rows]
        options: Any = self.operands()
        return heads_cross_entropy(features, labels=labels, offset=offset, label_smoothing=label_smoothing, **options)

    def project(self) -> None:
        """Bring the parameters back into their allowed range after a step."""
        return

    @abc.abstractmethod
    def head(self, index: int) -> LinearHead:
        """Return one of the K heads as a linear head."""


def repeat(parameter: Tensor, num_settings: int) -> Tensor:
    """Return [...] repeated to [K, ...], to be trained."""
    return parameter.detach().expand(num_settings, *parameter.shape).clone().requires_grad_(True)


def products(features: Tensor, weight: Tensor) -> Tensor:
    """Return [K, B, C] of features [B, D] and weights [K, C, D]: one product for all settings."""
    settings, classes, width = weight.shape
    # A batch of one, since `mm` rounds some small shapes differently from `bmm`
    flat = torch.bmm(features[None], weight.reshape(1, settings * classes, width).mT)[0]  # [B, K C]
    return flat.view(-1, settings, classes).transpose(0, 1)


def new_head(like: LinearHead, seed: int) -> LinearHead:
    """Return a freshly initialised head of another's shape, on its device."""
    generator = torch.Generator().manual_seed(seed)
    return LinearHead.initialised(like.num_classes, like.num_features, generator=generator).to(like.weight.device)


class LinearGrid(HeadGrid):
    """Free linear heads; with a `radius`, no class's weight vector is longer than it."""

    def __init__(self, head: LinearHead, num_settings: int, *, radius: float | None = None) -> None:
        bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias
        self.weight = repeat(head.weight, num_settings)
        self.bias = repeat(bias, num_settings)
        self.factor = self.weight
        self.radius = radius

    def parameters(self) -> list[Tensor]:
        """Return weights [K, C, D] and biases [K, C]."""
        return [self.weight, self.bias]

    def leaves(self) -> list[Tensor]:
        """Return the factor of products, which is the weights or their copy, and the biases."""
        return [self.factor, self.bias]

    def multiply_in(self, dtype: torch.dtype) -> None:
        """Keep a copy of the weights in a type of products."""
        if dtype is not self.weight.dtype:
            self.factor = self.weight.detach().to(dtype).requires_grad_(True)

    def logits(self, inputs: Tensor) -> Tensor:
        """Map features [B, D] to logits [K, B, C]."""
        return products(inputs.to(self.factor.dtype), self.factor) + self.bias[:, None]

    def operands(self) -> dict[str, Tensor]:
        """Return the factor of products and the biases."""
        return {"weight": self.factor, "bias": self.bias}

    def project(self) -> None:
        """Shorten weights that are longer than the radius."""
        if self.radius is None:
            return
        norms = torch.linalg.vector_norm(self.weight, dim=-1, keepdim=True)
        self.weight.mul_((self.radius / norms.clamp(min=1e-12)).clamp(max=1))
        if self.factor is not self.weight:
            self.factor.copy_(self.weight)

    def head(self, index: int) -> LinearHead:
        """Return one of the heads."""
        return LinearHead(self.weight[index].detach().clone(), self.bias[index].detach().clone())


class CosineGrid(HeadGrid):
    """Heads on unit vectors: logit_j = s w_j x / ||w_j||, with x / ||x|| in place of x during training.

    With a `center` [D], x is what remains of the features after it is subtracted. The folded linear head leaves out
    ||x||, which scales all of an image's logits alike, so predictions are the same.
    """

    def __init__(
        self,
        head: LinearHead,
        num_settings: int,
        *,
        scale: float,
        learn_scale: bool = True,
        center: Tensor | None = None,
    ) -> None:
        self.weight = repeat(head.weight, num_settings)
        self.log_scale = repeat(torch.full((1,), scale, device=self.weight.device).log(), num_settings)
        self.learn_scale, self.center = learn_scale, center

    def parameters(self) -> list[Tensor]:
        """Return weights [K, C, D] and, where it is learned, the logarithm of the scale, [K, 1]."""
        return [self.weight, self.log_scale] if self.learn_scale else [self.weight]

    def inputs(self, features: Tensor) -> Tensor:
        """Map features [B, D] to the unit vectors that they, or what remains of them, point along."""
        x = features.float()
        return F.normalize(x if self.center is None else x - self.center, dim=-1)

    def logits(self, inputs: Tensor) -> Tensor:
        """Map unit vectors [B, D] to scaled cosines [K, B, C]."""
        return products(inputs, F.normalize(self.weight, dim=-1)) * self.log_scale.exp()[:, None]

    def operands(self) -> dict[str, Tensor]:
        """Return the unit vectors and the scale of their cosines."""
        weight = F.normalize(self.weight, dim=-1)
        return {"weight": weight, "scale": self.log_scale.exp().expand(weight.shape[:2])}

    def head(self, index: int) -> LinearHead:
        """Return one of the heads: unit vectors times the scale; a bias only with a center."""
        weight = (F.normalize(self.weight[index], dim=-1) * self.log_scale[index].exp()).detach()
        return LinearHead(weight, None if self.center is None else -(weight @ self.center))


class ScaleGrid(HeadGrid):
    """Learnable weight scaling: a frozen head and one scale per class, logit_j = s_j (w_j x + b_j), from s = 1.

    What the scales see are the frozen head's logits: one product an image is enough for all of a training.
    """

    def __init__(self, head: LinearHead, num_settings: int) -> None:
        self.weight = head.weight.detach()
        self.bias = None if head.bias is None else head.bias.detach()
        self.scale = repeat(torch.ones(head.num_classes, device=head.weight.device), num_settings)
        self.kept_width = head.num_classes

    def parameters(self) -> list[Tensor]:
        """Return the scales [K, C]."""
        return [self.scale]

    def inputs(self, features: Tensor) -> Tensor:
        """Map features [B, D] to the frozen head's logits [B, C]."""
        return F.linear(features.float(), self.weight, self.bias)

    def logits(self, inputs: Tensor) -> Tensor:
        """Map the frozen head's logits [B, C] to [K, B, C]."""
        return inputs[:, : self.kept_width] * self.scale[:, None]

    def cross_entropy(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        rows: Tensor | None = None,
        offset: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return every head's mean cross entropy [K] of logits [B, C], or of rows of logits [N, C or more]."""
        assert offset is None
        assert not label_smoothing
        return rescaled_cross_entropy(inputs, self.scale, labels, rows)

    def head(self, index: int) -> LinearHead:
        """Return one of the heads, its scales folded into weights and bias."""
        scale = self.scale[index].detach()
        return LinearHead(self.weight * scale[:, None], None if self.bias is None else self.bias * scale)
