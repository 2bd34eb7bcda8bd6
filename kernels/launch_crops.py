"""Launchers of the crops' and of the colour jitter's kernels; fastlt.ops has checked the arguments."""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from . import crops

PIXELS = 256  # of a square that a program resamples at a time
TURNS = 2  # of such a program, at least
MOST = 65_535  # programs that CUDA takes on the second axis
JITTERED = 1024  # pixels of an image that a program jitters at a time
PARTS = 8  # in which an image's grey is summed: fixed, so that the sum is the same for every batch


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
    """Return the squares, uint8 [B, S, S, 3]; see `fastlt.ops.squares`."""
    out = data.new_empty((len(starts), size, size, 3))
    if len(out):
        with torch.cuda.device_of(data):
            crops.square_kernel[(len(out), min(triton.cdiv(size * size, TURNS * PIXELS), MOST))](
                *(tensor.contiguous() for tensor in (data, starts, widths, windows, boxes, flips.view(torch.uint8))),
                *(out, size),
                CUBIC=cubic,
                BP=PIXELS,
                num_warps=8,
            )
    return out


def jittered(
    images: Tensor,
    factors: Tensor,
    order: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """Return the images, jittered, scaled and shifted, [B, H, W, 3] in `dtype`; see `fastlt.ops.jittered`."""
    num_images, height, width, _ = images.shape
    out = images.new_empty(images.shape, dtype=dtype)
    if out.numel():
        sums = images.new_empty((num_images, PARTS), dtype=torch.float32)
        colours = images.contiguous(), factors.contiguous(), order.contiguous(), sums
        pixels, shares = height * width, triton.cdiv(height * width, JITTERED)
        with torch.cuda.device_of(images):
            crops.grey_kernel[(num_images * PARTS,)](*colours, pixels, PARTS=PARTS, BP=JITTERED, num_warps=8)
            crops.jitter_kernel[(num_images * shares,)](
                *(*colours, out, *scale, *shift, pixels, shares), PARTS=PARTS, BP=JITTERED, num_warps=8
            )
    return out
