"""From the loader's uint8 batch to the network's input: colour jitter and normalisation, inside the compiled step."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from .randaugment import LUMA, RandAugment

# Shapes: B batch, H height, W width.

ORDERS = tuple(itertools.permutations(range(3)))


class Preprocess(nn.Module):
    """Turn uint8 [B, H, W, 3] into the normalised float input [B, 3, H, W], in channels_last memory.

    Args:
        mean: Mean of each channel, in units of the full range.
        std: Standard deviation of each channel, in units of the full range.
        randaugment_magnitude: Strength of RandAugment's operations, 0 to 30.
    """

    scale: Tensor
    shift: Tensor
    luma: Tensor
    orders: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        randaugment_magnitude: float = 9.0,
    ) -> None:
        super().__init__()
        m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * s)).float(), persistent=False)
        self.register_buffer("shift", (-m / s).float(), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA), persistent=False)
        self.register_buffer("orders", torch.tensor(ORDERS), persistent=False)
        self.randaugment = RandAugment(randaugment_magnitude)

    def forward(
        self,
        images: Tensor,
        jitter: Tensor | None = None,
        order: Tensor | None = None,
        operations: Tensor | None = None,
    ) -> Tensor:
        """Jitter, augment and normalise a batch.

        Args:
            images: uint8 [B, H, W, 3].
            jitter: float32 [B, 3], the factors of brightness, contrast and saturation, or None.
            order: uint8 [B], which of the six orders each image takes, or None without ``jitter``.
            operations: uint8 [B, n], RandAugment's, or None for none.

        Returns:
            float32 [B, 3, H, W]; permuted, not copied.
        """
        x = images.float()
        if jitter is not None and order is not None:
            x = self.color_jitter(x, jitter, order)
        if operations is not None:
            x = self.randaugment(x, operations)
        return (x * self.scale + self.shift).permute(0, 3, 1, 2)

    def color_jitter(self, x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
        """Blend every image with black, its mean grey and its own grey version, in its own order.

        This is ``torchvision.transforms.ColorJitter`` without hue, in floating point: values are clamped to [0, 255]
        after each blend as there, but not rounded.

        Args:
            x: float [B, H, W, 3] in [0, 255].
            factors: [B, 3]; 1 leaves the image as it is.
            order: [B] in 0 .. 5.
        """
        sequence = self.orders[order.long()]  # [B, 3]
        for place in range(3):
            op = sequence[:, place]  # [B]: 0 brightness, 1 contrast, 2 saturation
            factor = factors.gather(1, op[:, None])[:, :, None, None]
            grey = (x * self.luma).sum(3, keepdim=True)
            mean = grey.mean((1, 2), keepdim=True)
            op = op[:, None, None, None]
            other = torch.where(op == 0, torch.zeros_like(grey), torch.where(op == 1, mean, grey))
            x = (other + factor * (x - other)).clamp(0, 255)
        return x
