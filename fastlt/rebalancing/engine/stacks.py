"""Stacks of linear classifiers for the engine: free, on unit vectors, or one scale a class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models import LinearHead

# Shapes: S seeds, K settings a seed, B batch, C classes, D feature width.


def copies(parameter: Tensor, num_settings: int) -> Tensor:
    """Return [S, ...] repeated to [S, K, ...], to be trained."""
    repeated = parameter.detach()[:, None].expand(-1, num_settings, *parameter.shape[1:])
    return repeated.clone().requires_grad_(True)


def products(features: Tensor, weight: Tensor) -> Tensor:
    """Return [S, K, B, C] of features [S, B, D] and weights [S, K, C, D]: one product a seed for all settings."""
    seeds, settings, classes, width = weight.shape
    flat = torch.bmm(features, weight.reshape(seeds, settings * classes, width).mT)  # [S, B, K C]
    return flat.view(seeds, -1, settings, classes).transpose(1, 2)


def started(num_classes: int, num_features: int, seeds: tuple[int, ...], device: torch.device) -> list[LinearHead]:
    """Return freshly initialised heads, one a seed."""
    return [
        LinearHead.initialised(num_classes, num_features, generator=torch.Generator().manual_seed(seed)).to(device)
        for seed in seeds
    ]


def scaled(weight: Tensor, bias: Tensor | None, scale: Tensor) -> LinearHead:
    """Return the head s_j (w_j x + b_j) of weight [C, D], bias [C] and one scale a class, [C]."""
    factor = scale.detach()
    return LinearHead(weight.detach() * factor[:, None], None if bias is None else bias.detach() * factor)


class LinearStack:
    """Free linear classifiers; with `radius` no class's weights are longer than that."""

    def __init__(self, heads: list[LinearHead], num_settings: int, *, radius: float | None = None) -> None:
        biases = [torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias for head in heads]
        self.weight = copies(torch.stack([head.weight for head in heads]), num_settings)
        self.bias = copies(torch.stack(biases), num_settings)
        self.radius = radius

    def parameters(self) -> list[Tensor]:
        """Return weights [S, K, C, D] and biases [S, K, C]."""
        return [self.weight, self.bias]

    def logits(self, features: Tensor) -> Tensor:
        """Map features [S, B, D] to logits [S, K, B, C]."""
        return products(features, self.weight) + self.bias[:, :, None]

    def project(self) -> None:
        """Shorten weights that are longer than the radius."""
        if self.radius is not None:
            norms = torch.linalg.vector_norm(self.weight, dim=-1, keepdim=True)
            self.weight.mul_((self.radius / norms.clamp(min=1e-12)).clamp(max=1))

    def head(self, seed: int, setting: int) -> LinearHead:
        """Return one classifier."""
        return LinearHead(self.weight[seed, setting].detach().clone(), self.bias[seed, setting].detach().clone())


class UnitStack:
    """Classifiers on unit vectors: logit_j = s w_j x / ||w_j||, and, while they train, with x / ||x|| for x.

    Folded to a linear head, ||x|| is left out: it scales all of an image's logits alike, so predictions are the same.
    """

    def __init__(self, heads: list[LinearHead], num_settings: int, *, scale: float, learn_scale: bool = True) -> None:
        self.weight = copies(torch.stack([head.weight for head in heads]), num_settings)
        self.log_scale = copies(torch.full((len(heads), 1), scale, device=self.weight.device).log(), num_settings)
        self.learn_scale = learn_scale

    def parameters(self) -> list[Tensor]:
        """Return weights [S, K, C, D] and, where it is learned, the logarithm of the scale, [S, K, 1]."""
        return [self.weight, self.log_scale] if self.learn_scale else [self.weight]

    def logits(self, features: Tensor) -> Tensor:
        """Map features [S, B, D] to scaled cosines [S, K, B, C]."""
        cosines = products(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))
        return cosines * self.log_scale.exp()[:, :, None]

    def project(self) -> None:
        """Nothing: every weight vector has a direction."""

    def head(self, seed: int, setting: int) -> LinearHead:
        """Return one classifier: unit vectors times the scale, no bias."""
        scale = self.log_scale[seed, setting].exp()
        return LinearHead((F.normalize(self.weight[seed, setting], dim=-1) * scale).detach())


class ScaleStack:
    """Learnable weight scaling: a frozen head and one scale a class, logit_j = s_j (w_j x + b_j), from s = 1."""

    def __init__(self, frozen: LinearHead, num_seeds: int, num_settings: int) -> None:
        self.frozen = frozen
        ones = torch.ones(num_seeds, frozen.num_classes, device=frozen.weight.device)
        self.scale = copies(ones, num_settings)

    def parameters(self) -> list[Tensor]:
        """Return the scales [S, K, C]."""
        return [self.scale]

    def logits(self, features: Tensor) -> Tensor:
        """Map features [S, B, D] to logits [S, K, B, C]; the product is the same for all settings."""
        bias = None if self.frozen.bias is None else self.frozen.bias.detach()
        z = F.linear(features, self.frozen.weight.detach(), bias)
        return z[:, None] * self.scale[:, :, None]

    def project(self) -> None:
        """Nothing: any scale is allowed."""

    def head(self, seed: int, setting: int) -> LinearHead:
        """Return one classifier, the scales folded into weights and bias."""
        return scaled(self.frozen.weight, self.frozen.bias, self.scale[seed, setting])
