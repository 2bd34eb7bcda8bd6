"""Launchers of grouped convolutions' kernels; fastlt.ops has checked the arguments."""

import torch
import triton
from torch import Tensor

from . import convolution
from .launch_linear import precision

PIXELS, WARPS, STAGES = 64, 4, 3
SHARES = 32  # of the pixels, in the gradient of the weights: fixed, so that its sums are the same on every GPU


def grouped_conv(x: Tensor, weight: Tensor, stride: int, transposed: bool, height: int, width: int) -> Tensor:
    """Convolve [B, H, W, C] with [9, K, BC, BC] to [B, height, width, C]."""
    batch, in_height, in_width, channels = x.shape
    out = x.new_empty((batch, height, width, channels))
    num_pixels, block = batch * height * width, weight.shape[-1]
    with torch.cuda.device_of(x):
        convolution.convolve_kernel[(triton.cdiv(num_pixels, PIXELS), channels // block)](
            *(x, weight, out, num_pixels, channels, in_height, in_width, height, width),
            STRIDE=stride,
            TRANSPOSED=transposed,
            BM=PIXELS,
            BC=block,
            PRECISION=precision(x.dtype),
            num_warps=WARPS,
            num_stages=STAGES,
        )
    return out


def grouped_conv_weight(x: Tensor, grad: Tensor, stride: int, block: int) -> Tensor:
    """Return the gradient of the weights [9, K, BC, BC], float32, from [B, H, W, C] and [B, H', W', C]."""
    _, in_height, in_width, channels = x.shape
    batch, height, width, _ = grad.shape
    num_pixels, num_blocks = batch * height * width, channels // block
    tile = PIXELS // 2 if x.dtype is torch.float32 else PIXELS  # the three TF32 products need more registers
    rows = triton.cdiv(triton.cdiv(num_pixels, SHARES), tile) * tile
    shares = triton.cdiv(num_pixels, rows)
    partial = x.new_empty((shares, 9, num_blocks, block, block), dtype=torch.float32)
    with torch.cuda.device_of(x):
        convolution.weight_kernel[(shares, num_blocks, 9)](
            *(x, grad, partial, num_pixels, channels, in_height, in_width, height, width, rows),
            STRIDE=stride,
            BM=tile,
            BC=block,
            PRECISION=precision(x.dtype),
            num_warps=WARPS,
            num_stages=STAGES,
        )
    total: Tensor = partial.sum(0)
    return total
