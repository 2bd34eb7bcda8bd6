"""Launchers of batch norm's kernels, with the arguments and results of fastlt.ops' PyTorch references.

Pixels are [M, C], contiguous, in float32, bfloat16 or float16; per-channel vectors are float32 [C]. fastlt.ops has
checked the arguments.
"""

import torch
import triton
from torch import Tensor

from . import batch_norm

ROWS, CHANNELS = 32, 64
SUMS = {"BM": ROWS, "BC": CHANNELS, "num_warps": 4}
PASSES = {"BM": 16, "BC": CHANNELS, "num_warps": 4}
"""Tiles of the kernels that sum over rows, and of those that write every pixel: small tiles need few registers, so that
more of them wait for memory at a time."""
PROGRAMS = 1024  # shares x channel tiles: several waves on any GPU of today, and the same sums on all


def shares(num_rows: int, num_channels: int) -> tuple[int, int]:
    """Return (shares of the rows, rows of each but the last): fixed by the shape alone."""
    tiles = triton.cdiv(num_channels, CHANNELS)
    num_shares = max(1, min(triton.cdiv(num_rows, 4 * ROWS), PROGRAMS // tiles))
    rows = triton.cdiv(triton.cdiv(num_rows, num_shares), ROWS) * ROWS
    return int(triton.cdiv(num_rows, rows)), int(rows)


def batch_norm_relu(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y [M, C], mean [C], biased variance [C]) of a training batch."""
    num_rows, num_channels = x.shape
    count, rows = shares(num_rows, num_channels)
    tiles = int(triton.cdiv(num_channels, CHANNELS))
    means, squares = x.new_empty((2, count, num_channels), dtype=torch.float32)
    # An operation's results must not share memory, not even as parts of one tensor
    mean, variance = (x.new_empty(num_channels, dtype=torch.float32) for _ in range(2))
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        batch_norm.moments_kernel[(count, tiles)](x, means, squares, num_rows, num_channels, rows, **SUMS)
        batch_norm.merge_kernel[(tiles,)](means, squares, mean, variance, num_rows, num_channels, count, rows, **SUMS)
        batch_norm.apply_kernel[(triton.cdiv(num_rows, PASSES["BM"]), tiles)](
            x, residual, weight, bias, mean, variance, y, eps, num_rows, num_channels, RELU=relu, **PASSES
        )
    return y, mean, variance


def batch_norm_relu_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    relu: bool,
    with_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x [M, C], of the residual ([0] without one), of weight and of bias."""
    num_rows, num_channels = x.shape
    count, rows = shares(num_rows, num_channels)
    tiles = int(triton.cdiv(num_channels, CHANNELS))
    partial = x.new_empty((2, count, num_channels), dtype=torch.float32)
    dx = torch.empty_like(x)
    dresidual = torch.empty_like(x) if with_residual else x.new_empty(0)
    sizes = num_rows, num_channels
    with torch.cuda.device_of(x):
        batch_norm.sums_kernel[(count, tiles)](
            grad, x, y, mean, variance, *partial, eps, *sizes, rows, RELU=relu, **SUMS
        )
        dbias, dweight = (share.sum(0) for share in partial)
        batch_norm.gradient_kernel[(triton.cdiv(num_rows, PASSES["BM"]), tiles)](
            *(grad, x, y, weight, mean, variance, dbias, dweight, dx, dresidual if with_residual else None),
            *(eps, *sizes),
            RELU=relu,
            **PASSES,
        )
    return dx, dresidual, dweight, dbias
