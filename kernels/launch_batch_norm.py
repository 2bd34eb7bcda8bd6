"""Launchers of batch norm's kernels, with the arguments and results of fastlt.ops' PyTorch references.

Pixels are [M, C], contiguous, in float32, bfloat16 or float16; per-channel vectors are float32 [C]. fastlt.ops has
checked the arguments.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from . import batch_norm

VALUES = 2048  # that a program takes at a time: few registers, so that more programs wait for memory at once
WIDEST = 256  # channels of a program: a warp then reads 512 bytes of a row of bfloat16
PROGRAMS = 1024  # shares x channel tiles: several waves on any GPU of today, and the same sums on all
MERGING = {"BM": 128, "BC": 16, "num_warps": 4}
"""The tile of the kernels that merge shares: narrow, since only channels are left to spread over the GPU."""


def tile_of(num_channels: int) -> dict[str, Any]:
    """Return the tile of a program that reads pixels: as many channels of a row as there are, up to `WIDEST`."""
    channels = min(WIDEST, max(16, triton.next_power_of_2(num_channels)))
    return {"BM": VALUES // channels, "BC": channels, "num_warps": 4}


def shares(num_rows: int, num_channels: int) -> tuple[int, int]:
    """Return (shares of the rows, rows of each but the last): fixed by the shape alone."""
    tile = tile_of(num_channels)
    tiles = triton.cdiv(num_channels, tile["BC"])
    num_shares = max(1, min(triton.cdiv(num_rows, 4 * tile["BM"]), PROGRAMS // tiles))
    rows = max(1, triton.cdiv(triton.cdiv(num_rows, num_shares), tile["BM"])) * tile["BM"]
    return int(triton.cdiv(num_rows, rows)), int(rows)


def batch_norm_relu(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y [M, C], mean [C], biased variance [C]) of a training batch, and move the running statistics."""
    num_rows, num_channels = x.shape
    count, rows = shares(num_rows, num_channels)
    tile = tile_of(num_channels)
    tiles = triton.cdiv(num_channels, tile["BC"])
    means, squares = x.new_empty((2, count, num_channels), dtype=torch.float32)
    # An operation's results must not share memory, not even as parts of one tensor
    mean, variance = (x.new_empty(num_channels, dtype=torch.float32) for _ in range(2))
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        batch_norm.moments_kernel[(tiles * count,)](x, means, squares, num_rows, num_channels, rows, **tile)
        batch_norm.merge_kernel[(triton.cdiv(num_channels, MERGING["BC"]),)](
            *(means, squares, mean, variance, running_mean, running_variance, momentum),
            *(num_rows, num_channels, count, rows),
            **MERGING,
        )
        batch_norm.apply_kernel[(tiles * triton.cdiv(num_rows, tile["BM"]),)](
            x, residual, weight, bias, mean, variance, y, eps, num_rows, num_channels, RELU=relu, **tile
        )
    return y, mean, variance


def batch_norm_relu_backward(
    grad: Tensor,
    other: Tensor | None,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x [M, C], of the residual ([0] without y), of weight and of bias."""
    num_rows, num_channels = x.shape
    count, rows = shares(num_rows, num_channels)
    tile = tile_of(num_channels)
    tiles = triton.cdiv(num_channels, tile["BC"])
    partial = x.new_empty((2, count, num_channels), dtype=torch.float32)
    dbias, dweight = (x.new_empty(num_channels, dtype=torch.float32) for _ in range(2))
    dx = torch.empty_like(x)
    dresidual = x.new_empty(0) if y is None else torch.empty_like(x)
    vectors = weight, bias, mean, variance
    with torch.cuda.device_of(x):
        batch_norm.sums_kernel[(tiles * count,)](
            *(grad, other, x, y, *vectors, None if y is None else dresidual, *partial),
            *(eps, num_rows, num_channels, rows),
            RELU=relu,
            **tile,
        )
        batch_norm.total_kernel[(triton.cdiv(num_channels, MERGING["BC"]),)](
            *partial, dbias, dweight, num_channels, count, **MERGING
        )
        batch_norm.gradient_kernel[(tiles * triton.cdiv(num_rows, tile["BM"]),)](
            *(grad if y is None else dresidual, x, *vectors, dbias, dweight, dx, eps, num_rows, num_channels),
            RELU=relu and y is None,
            **tile,
        )
    return dx, dresidual, dweight, dbias
