"""Grids of linear heads trained side by side, one head per setting: free, on unit vectors, or one scale per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models import LinearHead

# Shapes: K settings (learning rate x weight decay), B batch, C classes, D feature width.


class HeadGrid(Protocol):
    """K heads of one kind that start alike."""

    def parameters(self) -> Sequence[Tensor]:
        """Return what is trained, each tensor with a leading dimension K."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [K, B, C]."""
        ...

    def project(self) -> None:
        """Bring the parameters back into their allowed range after a step."""
        ...

    def head(self, index: int) -> LinearHead:
        """Return one of the K heads as a linear head."""
        ...


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


class LinearGrid:
    """Free linear heads; with a `radius`, no class's weight vector is longer than it."""

    def __init__(self, head: LinearHead, num_settings: int, *, radius: float | None = None) -> None:
        bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias
        self.weight = repeat(head.weight, num_settings)
        self.bias = repeat(bias, num_settings)
        self.radius = radius

    def parameters(self) -> list[Tensor]:
        """Return weights [K, C, D] and biases [K, C]."""
        return [self.weight, self.bias]

    def logits(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [K, B, C]."""
        return products(features, self.weight) + self.bias[:, None]

    def project(self) -> None:
        """Shorten weights that are longer than the radius."""
        if self.radius is not None:
            norms = torch.linalg.vector_norm(self.weight, dim=-1, keepdim=True)
            self.weight.mul_((self.radius / norms.clamp(min=1e-12)).clamp(max=1))

    def head(self, index: int) -> LinearHead:
        """Return one of the heads."""
        return LinearHead(self.weight[index].detach().clone(), self.bias[index].detach().clone())


class CosineGrid:
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

    def logits(self, features: Tensor) -> Tensor:
        """Map features [B, D] to scaled cosines [K, B, C]."""
        x = features if self.center is None else features - self.center
        cosines = products(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))
        return cosines * self.log_scale.exp()[:, None]

    def project(self) -> None:
        """Do nothing: every weight vector has a direction."""

    def head(self, index: int) -> LinearHead:
        """Return one of the heads: unit vectors times the scale; a bias only with a center."""
        weight = (F.normalize(self.weight[index], dim=-1) * self.log_scale[index].exp()).detach()
        return LinearHead(weight, None if self.center is None else -(weight @ self.center))


class ScaleGrid:
    """Learnable weight scaling: a frozen head and one scale per class, logit_j = s_j (w_j x + b_j), from s = 1."""

    def __init__(self, head: LinearHead, num_settings: int) -> None:
        self.weight = head.weight.detach()
        self.bias = None if head.bias is None else head.bias.detach()
        self.scale = repeat(torch.ones(head.num_classes, device=head.weight.device), num_settings)

    def parameters(self) -> list[Tensor]:
        """Return the scales [K, C]."""
        return [self.scale]

    def logits(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [K, B, C]; the product is the same for all settings."""
        return F.linear(features, self.weight, self.bias) * self.scale[:, None]

    def project(self) -> None:
        """Do nothing: any scale is allowed."""

    def head(self, index: int) -> LinearHead:
        """Return one of the heads, its scales folded into weights and bias."""
        scale = self.scale[index].detach()
        return LinearHead(self.weight * scale[:, None], None if self.bias is None else self.bias * scale)
