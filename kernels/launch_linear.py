"""Launchers of a linear head's kernels, with the arguments and results of fastlt.ops' PyTorch references.

Features are [N, D] and weight [C, D] of one type (float32, bfloat16 or float16) on one device; per-class vectors are
float32 [C]. Sums are float32. fastlt.ops has checked the arguments.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import linear

INTERPRETED = not isinstance(linear.store_kernel, triton.JITFunction)
FAST = not INTERPRETED and torch.version.hip is None  # the one-instruction logarithm and reciprocal are PTX

CHUNK_ELEMENTS = 1 << 22  # of a gradient [N, C] that is scaled at once: 16 MB in float32 stay in the L2 cache


class Tile(NamedTuple):
    """A launch configuration: rows and columns of a program's tile, depth of a step, warps, stages of the pipeline.

    `parts` are those in which a reduction takes the columns, one after the other; `by_tma` says that descriptors copy.
    """

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int = 3
    parts: int = 1
    by_tma: bool = False

    @staticmethod
    def of(num_classes: int, dtype: torch.dtype) -> "Tile":
        """Return the tile for a class count and type; it ignores the batch, so a row's result does not depend on it.

        All compile without a spill for sm_80, sm_90 and sm_100. Small heads get small tiles, to fill the machine, and
        so does float32 before sm_90, whose three TF32 products would need more registers than there are.
        """
        if dtype is torch.float32:
            is_large = num_classes > SMALL and architecture() >= 90
            return Tile(128, 128, 32, 8) if is_large else Tile(64, 64, 32, 4)
        return Tile(64, 64, 64, 4) if num_classes <= SMALL else Tile(128, 128, 64, 8, parts=2)


SMALL = 512  # classes up to which a head gets small tiles
WIDE = Tile(128, 256, 64, 8, num_stages=4, parts=8, by_tma=True)
"""Of half types on sm_90 and later, for reductions: half the reads of X by way of the L2 cache."""


def architecture() -> int:
    """Return the GPU's architecture, 90 for sm_90; 0 if it is another vendor's. The interpreter plays an sm_90."""
    if INTERPRETED:
        return 90
    target = triton.runtime.driver.active.get_current_target()
    return int(target.arch) if target.backend == "cuda" else 0


def aligned(matrix: Tensor) -> Tensor:
    """Return the matrix with unit inner strides and rows apart, each beginning at a multiple of 16 bytes.

    Kernels then load vectors, and the tensor memory accelerator can copy it. Single loads would cost more than a copy.
    """
    stride, inner = matrix.stride()
    is_aligned = matrix.data_ptr() % 16 == 0 and stride * matrix.element_size() % 16 == 0
    if inner == 1 and stride >= matrix.shape[1] and is_aligned:
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True, kw_only=True)
class Product:
    """X @ W.T as the kernels see it: aligned rows, and a width that the tile's depth divides."""

    x: Tensor
    w: Tensor
    width: int
    tile: Tile

    @staticmethod
    def of(features: Tensor, weight: Tensor, *, reduced: bool = False) -> "Product":
        """Return the product of features [N, D] and weight [C, D]; `reduced`: for kernels that `reduce` launches."""
        tile, width = Tile.of(weight.shape[0], features.dtype), features.shape[1]
        missing = -width % tile.depth if width else tile.depth
        x, w = features.detach(), weight.detach()
        if missing:  # zeros change no product and make masks in the kernels needless; the usual widths need none
            x, w = (torch.nn.functional.pad(t, (0, missing)) for t in (x, w))
        if reduced and weight.shape[0] > SMALL and x.element_size() == 2 and architecture() >= 90:
            tile = WIDE
        return Product(x=aligned(x), w=aligned(w), width=width, tile=tile)

    def rows(self, start: int, stop: int) -> "Product":
        """Return the product of some rows of X."""
        return Product(x=self.x[start:stop], w=self.w, width=self.width, tile=self.tile)

    @cached_property
    def row_tiles(self) -> int:
        """Tiles of rows."""
        return int(triton.cdiv(self.x.shape[0], self.tile.rows))

    @cached_property
    def column_tiles(self) -> int:
        """Tiles of classes."""
        return int(triton.cdiv(self.w.shape[0], self.tile.columns))

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Allocate a tensor on the product's device."""
        return torch.empty(shape, dtype=dtype, device=self.x.device)

    def launch(self, kernel, *args, grid: int | None = None, tile: Tile | None = None, **constants) -> None:
        """Run a kernel on x, w, `args`, the sizes and the strides; by default over all tiles, grouped."""
        tile = tile or self.tile
        if grid is None:
            grid = self.row_tiles * self.column_tiles
            constants["GROUP"] = 8
        sizes = self.x.shape[0], self.w.shape[0], self.x.shape[1], self.x.stride(0), self.w.stride(0)
        with torch.cuda.device_of(self.x):
            kernel[(grid,)](
                *(self.x, self.w) if not tile.by_tma else self.descriptors,
                *(*args, *sizes),
                **constants,
                BM=tile.rows,
                BN=tile.columns,
                BK=tile.depth,
                PRECISION=precision(self.x.dtype),
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )

    def reduce(self, kernel, *args, **constants) -> None:
        """Run a kernel that reduces its tile's columns in parts, over all tiles."""
        self.launch(kernel, *args, **constants, PARTS=self.tile.parts, TMA=self.tile.by_tma)

    @property
    def descriptors(self) -> tuple[TensorDescriptor, TensorDescriptor]:
        """Descriptors of x and w for the tensor memory accelerator, made on the host, so that no GPU memory is used."""
        heights = (self.x, self.tile.rows), (self.w, self.tile.columns)
        return tuple(TensorDescriptor.from_tensor(t, [height, self.tile.depth]) for t, height in heights)

    def store(self, *args: Tensor | float | None, NORMS: bool) -> Tensor:
        """Return store_kernel's scores, [N, C] in the type of features."""
        *vectors, tau = args
        out = self.new(self.x.shape[0], self.w.shape[0], dtype=self.x.dtype)
        if out.numel():
            self.launch(linear.store_kernel, *vectors, out, tau, NORMS=NORMS, FAST=FAST)
        return out

    def label_scores(self, labels: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return each row's score at its label [N], in the same tile arithmetic as its rivals'.

        The reductions need it before they start, and no tile waits for the one that holds the label: so it has a launch
        of its own, whose small tiles add the same terms in the same order as all others.
        """
        label_scores, tile = self.new(self.x.shape[0]), Tile.of(1, self.x.dtype)
        grid = int(triton.cdiv(len(label_scores), tile.rows))
        self.launch(linear.label_kernel, scale, shift, labels, label_scores, grid=grid, tile=tile)
        return label_scores

    def add_gradients(self, dz: Tensor, dx: Tensor | None, dw: Tensor | None) -> None:
        """Set dx = dz @ W and add dz.T @ X to dw in float32, by the vendor's plain products."""
        w, x = self.w[:, : self.width], self.x[:, : self.width]
        with torch.autocast(dz.device.type, enabled=False):
            if dx is not None:
                torch.mm(dz, w, out=dx)
            if dw is None:
                return
            if dz.is_cuda and dz.dtype is not torch.float32:
                torch.addmm(dw, dz.T, x, out_dtype=torch.float32, out=dw)
            else:
                dw.addmm_(dz.T.float(), x.float())


def precision(dtype: torch.dtype) -> str:
    """Return the input precision: for float32 three TF32 products, or one if PyTorch's own products use TF32.

    Triton does not know them on AMD's GPUs.
    """
    if dtype is not torch.float32 or torch.version.hip is not None:
        return "ieee"
    # Not by get_float32_matmul_precision, which raises an error where the process has set the newer switch
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


def _gradients(features: Tensor, weight: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate the gradients of features, weight (float32: a sum), scale and shift, each empty unless needed."""
    need_x, need_w, need_s, need_shift = needs
    dx = features.new_empty(features.shape if need_x else (0,))
    dw = weight.new_zeros(weight.shape if need_w else (0,), dtype=torch.float32)
    ds, dshift = (weight.new_zeros(len(weight) if need else 0, dtype=torch.float32) for need in (need_s, need_shift))
    return dx, dw, ds, dshift


def scaled_logits(
    features: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    row: Tensor | None,
    column: Tensor | None,
) -> Tensor:
    """Return z * scale + shift + row column^T, [N, C] in the type of features."""
    return Product.of(features, weight).store(scale, shift, row, column, 0.0, NORMS=False)


def tau_normalized_logits(features: Tensor, weight: Tensor, tau: float) -> Tensor:
    """Return z / ||w||^tau, [N, C] in the type of features."""
    return Product.of(features, weight).store(None, None, None, None, tau, NORMS=True)


def scaled_logits_backward(
    grad: Tensor, features: Tensor, weight: Tensor, scale: Tensor | None, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of features, weight, scale (which recomputes z) and shift, each empty unless needed."""
    product = Product.of(features, weight)
    need_x, need_w, need_s, need_shift = needs
    dx, dw, ds, dshift = _gradients(features, weight, needs)
    num = features.shape[0]
    grad = grad if grad.stride(1) == 1 else grad.contiguous()
    if need_s and num:
        partial = product.new(product.row_tiles, weight.shape[0])
        product.launch(linear.column_sum_kernel, grad, partial, grad.stride(0))
        ds = partial.sum(0)
    if need_shift:
        dshift = grad.sum(0, dtype=torch.float32)
    rows = max(CHUNK_ELEMENTS // weight.shape[0], 512)
    for start in range(0, num if need_x or need_w else 0, rows):
        dz = grad[start : start + rows]
        if scale is not None:
            dz = (dz.float() * scale).to(features.dtype)
        part = product.rows(start, start + rows)
        part.add_gradients(dz, dx[start : start + rows] if need_x else None, dw if need_w else None)
    return dx, dw.to(weight.dtype), ds, dshift


def label_rank(features: Tensor, weight: Tensor, labels: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """Return how many classes come before the label, int32 [N]."""
    product = Product.of(features, weight, reduced=True)
    if not len(features):
        return product.new(0, dtype=torch.int32)
    labels = labels.contiguous()
    label_scores = product.label_scores(labels, scale, shift)
    num_behind = product.new(product.column_tiles, len(features), dtype=torch.int32)
    product.reduce(linear.rank_kernel, scale, shift, labels, label_scores, num_behind)
    return (weight.shape[0] - 1 - num_behind.sum(0)).int()


def predictions(features: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the predicted classes, their log probabilities and the labels', all [N]."""
    product = Product.of(features, weight, reduced=True)
    shape = product.column_tiles, len(features)
    label_scores, top, total = product.new(len(features)), product.new(*shape), product.new(*shape)
    classes = product.new(*shape, dtype=torch.int32)
    if len(features):
        args = bias, labels.contiguous(), label_scores, top, classes, total
        product.reduce(linear.prediction_kernel, *args)
    best = top.argmax(0, keepdim=True)  # the first of equal ones, which has the lower classes
    highest = top.gather(0, best)
    log_total = (total * (top - highest).exp()).sum(0, dtype=torch.float64).log()
    of_label = label_scores.double() - highest.squeeze(0) - log_total
    return classes.gather(0, best).squeeze(0).long(), -log_total, of_label


def sgd_step(
    parameter: Tensor,
    velocity: Tensor,
    gradient: Tensor,
    copy: Tensor | None,
    rates: Tensor,
    decays: Tensor,
    share: Tensor,
    momentum: float,
) -> None:
    """Take a step of SGD on parameters [K, ...], all contiguous, in place."""
    heads, block = len(parameter), 1024
    size = parameter[0].numel()
    with torch.cuda.device_of(parameter):
        linear.sgd_kernel[(int(triton.cdiv(size, block)), heads)](
            *(parameter, velocity, gradient.contiguous(), copy, rates, decays, share, momentum, size),
            BLOCK=block,
            num_warps=4,
        )
