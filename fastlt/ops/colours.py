"""Colour jitter and normalisation of images in memory: inside a compiled step they are part of its kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Shapes: B batch, H, W image size.

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts to grey


def normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the factor and the summand that normalise each channel's bytes; mean and std are shares of 255."""
    return [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def color_jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Blend every image with black, with its mean grey and with its own grey version, in its own order.

    This is `torchvision.transforms.ColorJitter` without hue, in floating point: values are clamped to [0, 255] after
    each blend as there, but not rounded.

    Args:
        x: [B, H, W, 3] in [0, 255], of a floating-point type.
        factors: [B, 3], of brightness, contrast and saturation; 1 leaves the image as it is.
        order: [B] in 0..5, which of the six orders each image takes, as `itertools.permutations` counts them.

    Returns:
        [B, H, W, 3] in [0, 255], in the type of `x`.
    """
    for operation in sequence(order.long()):
        factor = factors.gather(1, operation[:, None])[:, :, None, None]
        grey = (LUMA[0] * x[..., 0] + LUMA[1] * x[..., 1] + LUMA[2] * x[..., 2])[..., None]
        mean = grey.mean((1, 2), keepdim=True)
        operation = operation[:, None, None, None]
        other = torch.where(operation == 0, torch.zeros_like(grey), torch.where(operation == 1, mean, grey))
        x = (other + factor * (x - other)).clamp(0, 255)
    return x


def sequence(order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first, second and third operation of orders [B]: 0 brightness, 1 contrast, 2 saturation."""
    first = order // 2
    lower, upper = (first == 0).long(), 2 - (first == 2).long()
    second = torch.where(order % 2 == 0, lower, upper)
    return first, second, 3 - first - second
