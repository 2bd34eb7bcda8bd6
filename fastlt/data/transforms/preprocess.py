"""From the loader's uint8 batch to the network's input: colour jitter and normalisation, inside the compiled step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...ops.backend import has_kernels
from ...ops.colours import color_jitter, jittered, normalisation
from .randaugment import RandAugment

# Shapes: B batch, H height, W width.


class Preprocess(nn.Module):
    """Turn uint8 [B, H, W, 3] into the normalised float input [B, 3, H, W].

    Args:
        mean: Mean of each channel, in units of the full range.
        std: Standard deviation of each channel, in units of the full range.
        randaugment_magnitude: Strength of RandAugment's operations, 0 to 30.
        channels_last: Whether to return the input in channels_last memory instead of contiguous.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        randaugment_magnitude: float = 9.0,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.normalisation = normalisation(mean, std)
        scale, shift = self.normalisation
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32), persistent=False)
        self.randaugment = RandAugment(randaugment_magnitude)

    def forward(
        self,
        images: Tensor,
        jitter: Tensor | None = None,
        order: Tensor | None = None,
        operations: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Jitter, augment and normalise a batch.

        On a GPU the jitter is an operation of its own. All the rest is left in the open to a compiler, which makes one
        pass of the normalisation alone.

        Args:
            images: uint8 [B, H, W, 3].
            jitter: float32 [B, 3], the factors of brightness, contrast and saturation, or None.
            order: uint8 [B], which of the six orders each image takes, or None without `jitter`.
            operations: uint8 [B, n], RandAugment's operations, or None.
            dtype: Type to which the result is rounded.

        Returns:
            [B, 3, H, W] in `dtype`; for channels_last permuted without a copy.
        """
        if jitter is None or order is None:
            x = images.float()
        elif not has_kernels(images):
            x = color_jitter(images.float(), jitter, order)
        elif operations is not None:
            x = jittered(images, jitter, order)
        else:
            scale, shift = self.normalisation
            return self.lay_out(jittered(images, jitter, order, scale=scale, shift=shift, dtype=dtype))
        if operations is not None:
            x = self.randaugment(x, operations)
        return self.lay_out((x * self.scale + self.shift).to(dtype))

    def lay_out(self, x: Tensor) -> Tensor:
        """Permute [B, H, W, 3] to [B, 3, H, W] in the requested memory format."""
        x = x.permute(0, 3, 1, 2)
        return x if self.channels_last else x.contiguous()
