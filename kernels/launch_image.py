"""Launcher of the crops; nothing here checks its arguments: fastlt.ops has."""

import torch
import triton
from torch import Tensor

from . import image

PIXELS = 128  # of a square, a program


def squares(
    data: Tensor,
    starts: Tensor,
    widths: Tensor,
    windows: Tensor,
    boxes: Tensor,
    flips: Tensor,
    size: int,
    cubic: bool,
) -> Tensor:
    """Return uint8 [B, S, S, 3]; see fastlt.ops.squares."""
    out = data.new_empty((len(starts), size, size, 3))
    if len(out):
        with torch.cuda.device_of(data):
            image.square_kernel[(len(out), triton.cdiv(size * size, PIXELS))](
                *(data, starts, widths, windows, boxes, flips.to(torch.uint8), out, size),
                CUBIC=cubic,
                BP=PIXELS,
                num_warps=4,
            )
    return out
