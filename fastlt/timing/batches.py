"""The batch that a step is timed on without a loader."""

from __future__ import annotations

import torch

from ..training.step import StepInput

NUM_CLASSES = 1000


def random_batch(batch_size: int, image_size: int, device: torch.device) -> StepInput:
    """Return a random batch on a device.

    Args:
        batch_size: Images, B.
        image_size: Side of the images, S.
        device: Where its tensors are.

    Returns:
        Images, uint8 [B, S, S, 3], labels [B], colour factors in 0.6 .. 1.4, [B, 3], and their orders, uint8 [B]; the
        rest is None.
    """
    return StepInput(
        torch.randint(0, 256, (batch_size, image_size, image_size, 3), dtype=torch.uint8, device=device),
        torch.randint(0, NUM_CLASSES, (batch_size,), device=device),
        0.6 + 0.8 * torch.rand(batch_size, 3, device=device),
        torch.randint(0, 6, (batch_size,), dtype=torch.uint8, device=device),
    )
