"""Launcher of the kernels of tau intervals; see launch_linear for its arguments."""

import torch
import triton
from torch import Tensor

from . import intervals as kernels
from .launch_linear import FAST, Product, Tile


def intervals(
    features: Tensor, weight: Tensor, labels: Tensor, slope: Tensor, shift: Tensor | None, log: bool
) -> tuple[Tensor, Tensor]:
    """Return low, high, float32 [N], between which each label is right; (inf, -inf) where it never is."""
    product = Product.of(features, weight)
    if not len(features):
        return product.new(0), product.new(0)
    labels = labels.contiguous()
    label_scores = product.label_scores(labels, None, shift)
    low, high = (product.new(product.column_tiles, len(features)) for _ in range(2))
    product.launch(kernels.interval_kernel, shift, slope, labels, label_scores, low, high, LOG=log, FAST=FAST)
    low, high = low.amax(0), high.amin(0)
    if log:
        # Rows in which neither the label nor a rival is positive are rare; their number is not read, to avoid waiting.
        signed = ~(label_scores >= torch.finfo(torch.float32).tiny)
        is_open = signed & torch.isneginf(low) & torch.isposinf(high)
        low.masked_fill_(signed & ~is_open, float("inf"))
        order = torch.argsort(is_open.to(torch.uint8), descending=True, stable=True)
        tile = Tile(32, 32, product.tile.depth, 4)
        args = slope, order, is_open.sum(dtype=torch.int32), labels, low, high
        grid = int(triton.cdiv(len(features), tile.rows))
        product.launch(kernels.signed_interval_kernel, *args, grid=grid, tile=tile, FAST=FAST)
    never = ~(low < high)
    return low.masked_fill_(never, float("inf")), high.masked_fill_(never, float("-inf"))
