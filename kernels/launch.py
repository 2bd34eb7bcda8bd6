"""Launchers: the operations of fastlt.ops on tensors, with the argument lists and results of its PyTorch references.

Features are [N, D] and weight [C, D] of one type (float32, bfloat16 or float16) on one device; per-class vectors are
float32 [C]. Sums are float32. Nothing here checks its arguments: fastlt.ops has.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
from torch import Tensor

from . import reducers

INTERPRETED = not isinstance(reducers.store_kernel, triton.JITFunction)
FAST = not INTERPRETED and torch.version.hip is None  # the one-instruction logarithm and reciprocal are PTX

CHUNK_ELEMENTS = 1 << 22  # of the float32 logits that cross entropy holds at once: 16 MB stay in the L2 cache
_LOG2 = 0.6931471805599453


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A launch configuration, fixed by (C, type) alone so that a row's result never depends on the batch around it.

    128 x 128 with 8 warps compiles to 173-200 registers without a spill for sm_80, sm_90 and sm_100.
    """

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int

    @staticmethod
    def of(num_classes: int, dtype: torch.dtype) -> "Tile":
        """Small heads get small tiles, to fill the machine; float32 half the depth, to fit the shared memory."""
        depth = 32 if dtype is torch.float32 else 64
        if num_classes <= 512:
            return Tile(rows=64, columns=64, depth=depth, num_warps=4, num_stages=3)
        return Tile(rows=128, columns=128, depth=depth, num_warps=8, num_stages=3)


@dataclass(frozen=True, kw_only=True)
class _Product:
    """X @ W.T as the kernels see it."""

    x: Tensor
    w: Tensor
    tile: Tile

    @staticmethod
    def of(features: Tensor, weight: Tensor) -> "_Product":
        x, w = (t.detach() if t.stride(1) == 1 else t.detach().contiguous() for t in (features, weight))
        return _Product(x=x, w=w, tile=Tile.of(weight.shape[0], features.dtype))

    def rows(self, start: int, stop: int) -> "_Product":
        return _Product(x=self.x[start:stop], w=self.w, tile=self.tile)

    @cached_property
    def row_tiles(self) -> int:
        return triton.cdiv(self.x.shape[0], self.tile.rows)

    @cached_property
    def column_tiles(self) -> int:
        return triton.cdiv(self.w.shape[0], self.tile.columns)

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.x.device)

    def launch(self, kernel, *args, grid: int | None = None, **options) -> None:  # type: ignore[no-untyped-def]
        """Run a kernel whose arguments are x, w, `args` and the sizes, by default over every tile of the product."""
        t, sizes = self.tile, (self.x.shape[0], self.w.shape[0], self.x.shape[1])
        if grid is None:
            grid = self.row_tiles * self.column_tiles
            options["GROUP"] = 8
        with torch.cuda.device_of(self.x):
            kernel[(grid,)](
                self.x,
                self.w,
                *args,
                *sizes,
                self.x.stride(0),
                self.w.stride(0),
                **options,
                BM=t.rows,
                BN=t.columns,
                BK=t.depth,
                EVEN=sizes[2] % t.depth == 0,
                PRECISION=_precision(self.x.dtype),
                num_warps=t.num_warps,
                num_stages=t.num_stages,
            )


def _precision(dtype: torch.dtype) -> str:
    """Three TF32 products for float32 (close to float32's own error), one where PyTorch is told that this is enough."""
    if dtype is not torch.float32:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def scaled_logits(
    features: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    offset: Tensor | None,
    row: Tensor | None,
    column: Tensor | None,
    tau: float | None = None,
) -> Tensor:
    """(z + bias) * scale + offset + row column^T [N, C]; with `tau`, ||w||^-tau takes the place of the scale."""
    product = _Product.of(features, weight)
    out = product.new(features.shape[0], weight.shape[0], dtype=features.dtype)
    if out.numel():
        vectors = (scale, bias, offset, row, column)
        product.launch(reducers.store_kernel, *vectors, out, tau or 0.0, NORMS=tau is not None, FAST=FAST)
    return out


def scaled_logits_backward(
    grad: Tensor, features: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, weight, scale and offset, each empty unless needed; the scale's by recomputing z in tiles."""
    product = _Product.of(features, weight)
    need_x, need_w, need_s, need_a = needs
    dx, dw, ds, da = _gradients(product, needs)
    num = features.shape[0]
    grad = grad if grad.stride(1) == 1 else grad.contiguous()
    if need_s and num:
        partial = product.new(product.row_tiles, weight.shape[0])
        product.launch(reducers.column_sum_kernel, bias, grad, partial, grad.stride(0))
        ds = partial.sum(0)
    if need_a:
        da = grad.sum(0, dtype=torch.float32)
    rows = max(CHUNK_ELEMENTS // weight.shape[0], 512)
    for start in range(0, num if need_x or need_w else 0, rows):
        here = product.rows(start, start + rows)
        dz = grad[start : start + rows]
        if scale is not None:
            dz = (dz.float() * scale).to(features.dtype)
        _products(here, dz, dx[start : start + rows] if need_x else None, dw if need_w else None)
    return dx, dw.to(weight.dtype), ds, da


def _gradients(product: _Product, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for the gradients of features, weight (float32 zeros, a sum over chunks), scale and offset."""
    need_x, need_w, need_s, need_a = needs
    dx = torch.empty_like(product.x) if need_x else product.x.new_empty(0)
    dw = product.new(*(product.w.shape if need_w else (0,))).zero_()
    ds, da = (product.new(product.w.shape[0] if need else 0).zero_() for need in (need_s, need_a))
    return dx, dw, ds, da


def _products(product: _Product, dz: Tensor, dx: Tensor | None, dw: Tensor | None) -> None:
    """dx = dz @ W, dw += dz.T @ X in float32: plain products, the vendor's."""
    with torch.autocast(dz.device.type, enabled=False):
        if dx is not None:
            torch.mm(dz, product.w, out=dx)
        if dw is None:
            return
        if dz.is_cuda and dz.dtype is not torch.float32:
            torch.addmm(dw, dz.T, product.x, out_dtype=torch.float32, out=dw)
        else:
            dw.addmm_(dz.T.float(), product.x.float())


def _own_scores(product: _Product, labels: Tensor, *vectors: Tensor | None) -> Tensor:
    """Each row's score at its label [N], by the tile arithmetic of its rivals."""
    own = product.new(product.x.shape[0])
    product.launch(reducers.label_kernel, *vectors, labels, own, grid=product.row_tiles)
    return own


def label_rank(
    features: Tensor, weight: Tensor, labels: Tensor, scale: Tensor | None, bias: Tensor | None, offset: Tensor | None
) -> Tensor:
    """How many classes come before the label, int32 [N]."""
    product = _Product.of(features, weight)
    if not len(features):
        return product.new(0, dtype=torch.int32)
    labels, vectors = labels.contiguous(), (scale, bias, offset)
    own = _own_scores(product, labels, *vectors)
    behind = product.new(product.column_tiles, len(features), dtype=torch.int32)
    product.launch(reducers.rank_kernel, *vectors, labels, own, behind)
    return (weight.shape[0] - 1 - behind.sum(0)).int()


def intervals(
    features: Tensor, weight: Tensor, labels: Tensor, slope: Tensor, bias: Tensor | None, log: bool
) -> tuple[Tensor, Tensor]:
    """The open interval of taus on which each label is right, float32 [N] each; (inf, -inf) where it never is."""
    product = _Product.of(features, weight)
    if not len(features):
        return product.new(0), product.new(0)
    labels = labels.contiguous()
    own = _own_scores(product, labels, None, bias, None)
    low, high = (product.new(product.column_tiles, len(features)) for _ in range(2))
    product.launch(reducers.interval_kernel, bias, slope, labels, own, low, high, LOG=log, FAST=FAST)
    low, high = low.amax(0), high.amin(0)
    never = ~(low < high)
    return low.masked_fill_(never, float("inf")), high.masked_fill_(never, float("-inf"))


def cross_entropy(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    row_weights: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    offset: Tensor | None,
    class_weights: Tensor | None,
    label_smoothing: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row losses [N] and the gradients of their sum that are needed: features, weight, scale, offset.

    Without gradients one launch reads X and W and stores partials only. With them the float32 logits of one chunk of rows
    stay in the L2 cache between the tile kernel, the softmax kernel and the vendor's products.
    """
    product = _Product.of(features, weight)
    num, classes = features.shape[0], weight.shape[0]
    dx, dw, ds, da = _gradients(product, needs)
    losses = product.new(num)
    labels = labels.clamp(0, classes - 1).contiguous()  # rows that are out of range count with weight 0 or NaN
    spread = label_smoothing / classes
    total = spread * (class_weights.sum() if class_weights is not None else classes)
    hit = 1.0 - label_smoothing if class_weights is None else (1.0 - label_smoothing) * class_weights[labels.long()]
    target, soft = row_weights * hit, row_weights * (hit + total)
    rows = max(CHUNK_ELEMENTS // classes // product.tile.rows, 1) * product.tile.rows if any(needs) else max(num, 1)
    for start in range(0, num, rows):
        here = slice(start, min(start + rows, num))
        part = product.rows(here.start, here.stop)
        z = part.new(part.x.shape[0], classes) if any(needs) else None
        own = part.new(part.x.shape[0])
        top, partition = (part.new(part.column_tiles, part.x.shape[0]) for _ in range(2))
        smooth = part.new(part.column_tiles, part.x.shape[0]) if label_smoothing > 0 else None
        outputs = (own, top, partition, smooth, z)
        part.launch(reducers.partition_kernel, scale, bias, offset, labels[here], class_weights, *outputs)
        highest = top.amax(0)
        lse = highest + (partition * (top - highest).exp2_()).sum(0).log2_()
        losses[here] = soft[here] * lse * _LOG2 - target[here] * own
        weighted = row_weights[here] * spread
        if smooth is not None:
            losses[here] -= weighted * smooth.sum(0)
        if z is not None:
            spreads = weighted if label_smoothing > 0 else None
            dz = _softmax_gradient(
                part, z, lse, labels[here], soft[here], target[here], spreads, class_weights, scale, offset, (ds, da), needs
            )
            if dz is not None:
                _products(part, dz, dx[here] if needs[0] else None, dw if needs[1] else None)
    return losses, dx, dw.to(weight.dtype), ds, da


def _softmax_gradient(  # type: ignore[no-untyped-def]
    part: _Product, z, lse, labels, soft, target, spread, class_weights, scale, offset, sums, needs
) -> Tensor | None:
    """Adds a chunk's column sums to `sums` (scale's and offset's gradients) and returns dz where features or weight need it."""
    need_x, need_w, need_s, need_a = needs
    num, classes = z.shape
    rows, columns = 32, 128
    row_tiles = triton.cdiv(num, rows)
    dz = torch.empty_like(z, dtype=part.x.dtype) if need_x or need_w else None
    ds = part.new(row_tiles, classes) if need_s else None
    da = part.new(row_tiles, classes) if need_a else None
    with torch.cuda.device_of(z):
        reducers.gradient_kernel[(triton.cdiv(classes, columns), row_tiles)](
            z, scale, offset, labels, lse, soft, target, spread, class_weights, dz, ds, da, num, classes,
            BM=rows, BN=columns, num_warps=4,
        )  # fmt: skip
    if ds is not None:
        sums[0].add_(ds.sum(0))
    if da is not None:
        sums[1].add_(da.sum(0))
    return dz
