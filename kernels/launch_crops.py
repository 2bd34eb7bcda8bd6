"""Launcher of the crops' kernel; fastlt.ops has checked the arguments."""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from . import crops

PIXELS = 256  # of a square that a program computes at a time
TURNS = 2  # of a program, unless it computes a whole square


def network_inputs(
    data: Tensor,
    starts: Tensor,
    widths: Tensor,
    windows: Tensor,
    boxes: Tensor,
    flips: Tensor,
    factors: Tensor | None,
    order: Tensor | None,
    scale: Sequence[float],
    shift: Sequence[float],
    size: int,
    cubic: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Return the network's input [B, S, S, 3] in `dtype`, scaled and shifted; see `fastlt.ops.network_inputs`."""
    out = data.new_empty((len(starts), size, size, 3), dtype=dtype)
    jitter = factors is not None
    square = torch.empty_like(out, dtype=torch.uint8) if jitter else None
    if len(out):
        with torch.cuda.device_of(data):
            programs = 1 if jitter else triton.cdiv(size * size, TURNS * PIXELS)
            crops.input_kernel[(len(out), programs)](
                *(data, starts, widths, windows, boxes, flips.view(torch.uint8), factors, order, square, out),
                *(*scale, *shift, size),
                CUBIC=cubic,
                JITTER=jitter,
                BP=PIXELS,
                num_warps=8,
            )
    return out
