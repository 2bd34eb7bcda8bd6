"""Launchers of the kernels of tau intervals; see launch_linear for their arguments."""

import torch
import triton
from torch import Tensor

from . import intervals as kernels
from .launch_linear import FAST, Product, Tile


def log_norms(weight: Tensor) -> Tensor:
    """Return log2 ||w_j||, float32 [C], from sums in float64; 0 for a zero row."""
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    out = weight.new_empty(len(weight), dtype=torch.float32)
    rows = 8
    with torch.cuda.device_of(weight):
        kernels.log_norm_kernel[(int(triton.cdiv(len(weight), rows)),)](
            weight, out, *weight.shape, weight.stride(0), BN=rows, BK=256, num_warps=4
        )
    return out


def intervals(
    features: Tensor, weight: Tensor, labels: Tensor, slope: Tensor, shift: Tensor | None, log: bool
) -> tuple[Tensor, Tensor]:
    """Return low, high, float32 [N], between which each label is right; (inf, -inf) where it never is."""
    product = Product.of(features, weight, reduced=True)
    num = len(features)
    low, high = product.new(num), product.new(num)
    if not num:
        return low, high
    labels = labels.contiguous()
    label_scores = product.label_scores(labels, None, shift)
    parts = [product.new(product.column_tiles, num) for _ in range(2)]
    args = shift, slope, labels, label_scores, *parts
    product.reduce(kernels.interval_kernel, *args, LOG=log, FAST=FAST)
    tile = Tile(64, 32, product.tile.depth, 4, num_stages=2)
    grid, tensors = int(triton.cdiv(num, tile.rows)), (slope, labels, label_scores, *parts, low, high)
    product.launch(kernels.finish_kernel, *tensors, product.column_tiles, grid=grid, tile=tile, LOG=log, FAST=FAST)
    return low, high
