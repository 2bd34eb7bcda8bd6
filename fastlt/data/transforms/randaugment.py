"""RandAugment on a batch of images, with static shapes so that the step compiles, and draws keyed by the global slot.

Source: Cubuk et al., RandAugment (2020). Operations and strengths are torchvision's, except that Equalize is left out,
shears keep the image's centre, sampling is bilinear, and values are not rounded to whole numbers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...ops.colours import LUMA

# Shapes: B batch, H = W image size, n operations per image.

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
)
MAX_MAGNITUDE = 30
STREAM = 0x72616E64  # keeps the draws apart from every other use of the seed
WORDS_A_BLOCK = 4  # Philox gives four words per count


def draw_operations(first_slot: int, count: int, *, num_operations: int, seed: int) -> np.ndarray:
    """Draw operations for consecutive slots: uint8 [count, n], 2 x the operation's index, + 1 for a negative sign."""
    blocks = -(-num_operations // WORDS_A_BLOCK)
    counter = np.array([first_slot * blocks, 0, 0, 0], np.uint64)
    bits = np.random.Philox(key=np.array([seed, STREAM], np.uint64), counter=counter)
    words = bits.random_raw(count * blocks * WORDS_A_BLOCK).reshape(count, -1)[:, :num_operations]
    return ((words >> np.uint64(32)) * np.uint64(2 * len(OPERATIONS)) >> np.uint64(32)).astype(np.uint8)


class RandAugment(nn.Module):
    """Apply the drawn operations, all at one strength.

    Args:
        magnitude: Their strength, 0 to 30.
    """

    luma: Tensor
    smooth: Tensor

    def __init__(self, magnitude: float) -> None:
        super().__init__()
        strength = magnitude / MAX_MAGNITUDE
        self.shear, self.angle = 0.3 * strength, math.radians(30 * strength)
        self.shift = 2 * 150 / 331 * strength  # in affine_grid's units: the image is 2 wide
        self.blend = 0.9 * strength
        self.level = 2.0 ** round(4 * strength)  # posterize keeps 8 - 4 x strength bits
        self.threshold = 255 * (1 - strength)
        kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's SMOOTH
        self.register_buffer("smooth", kernel.expand(3, 1, 3, 3).contiguous(), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA), persistent=False)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """Change a batch.

        Args:
            x: float [B, H, W, 3] in [0, 255].
            codes: uint8 [B, n], see `draw_operations`.
        """
        for place in range(codes.shape[1]):
            code = codes[:, place].long()
            x = self.colour(self.geometry(x, code // 2, 1.0 - 2.0 * (code % 2)), code // 2, 1.0 - 2.0 * (code % 2))
        return x

    def geometry(self, x: Tensor, op: Tensor, sign: Tensor) -> Tensor:
        """Shear, shift and rotate those images whose operation says so; areas from outside the image are black."""

        def amount(name: str, value: float) -> Tensor:
            return torch.where(op == OPERATIONS.index(name), sign * value, 0.0)

        angle = amount("rotate", self.angle)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        top = torch.stack([cosine, sine + amount("shear_x", self.shear), amount("translate_x", self.shift)], 1)
        bottom = torch.stack([amount("shear_y", self.shear) - sine, cosine, amount("translate_y", self.shift)], 1)
        images = x.permute(0, 3, 1, 2)
        grid = F.affine_grid(torch.stack([top, bottom], 1).to(x.dtype), list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        first, last = OPERATIONS.index("shear_x"), OPERATIONS.index("rotate")
        chosen = ((op >= first) & (op <= last))[:, None, None, None]
        return torch.where(chosen, moved.permute(0, 2, 3, 1), x)

    def colour(self, x: Tensor, op: Tensor, sign: Tensor) -> Tensor:
        """Change the colours of those images whose operation says so."""
        op, sign = op[:, None, None, None], sign[:, None, None, None]

        def chosen(name: str) -> Tensor:
            return op == OPERATIONS.index(name)

        grey = (x * self.luma).sum(3, keepdim=True)
        inner = F.conv2d(x.permute(0, 3, 1, 2), self.smooth, groups=3).permute(0, 2, 3, 1)
        smoothed = x.clone()
        smoothed[:, 1:-1, 1:-1] = inner
        other = torch.where(chosen("brightness"), torch.zeros_like(x), x)
        other = torch.where(chosen("color"), grey, other)
        other = torch.where(chosen("contrast"), grey.mean((1, 2), keepdim=True), other)
        other = torch.where(chosen("sharpness"), smoothed, other)
        x = (other + (1 + sign * self.blend) * (x - other)).clamp(0, 255)
        x = torch.where(chosen("posterize"), torch.floor(x / self.level) * self.level, x)
        x = torch.where(chosen("solarize") & (x >= self.threshold), 255 - x, x)
        low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
        stretched = (x - low) * (255 / (high - low).clamp_min(1e-6))
        return torch.where(chosen("autocontrast") & (high > low), stretched, x)
