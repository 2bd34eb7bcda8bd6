"""Launchers of the kernels of cross entropy; see launch_linear for their arguments, cross_entropy for the legend."""

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from . import cross_entropy as kernels
from .launch_linear import Product

CHUNK_BYTES = 1 << 28  # of the float32 logits that are recomputed at once where they were not kept


def cross_entropy(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    offset: Tensor | None,
    class_weights: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    mean: bool,
    width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return losses and log-sum-exps [K, N], row weights [3, N] and z [N, K, width], empty if width is 0."""
    num, (heads, classes, _) = len(features), weight.shape
    products = [Product.of(features, each) for each in weight]
    z = products[0].new(num, heads, width) if width else products[0].new(0)
    label_scores = products[0].new(heads, num)
    partials = products[0].new(3 if label_smoothing > 0 else 2, heads, products[0].column_tiles, num)
    for head, product in enumerate(products if num else ()):
        top, part, *rest = partials[:, head]
        kept = z[:, head] if width else None
        vectors = (None if v is None else v[head] for v in (scale, bias))
        args = *vectors, offset, labels, class_weights, label_scores[head], top, part, rest[0] if rest else None
        product.launch(kernels.partition_kernel, *args, kept, heads * width, width)
    smoothing = label_smoothing, ignore_index
    return *_merge(labels, class_weights, label_scores, partials, *smoothing, classes, mean), z


def rescaled_cross_entropy(
    logits: Tensor, scale: Tensor, labels: Tensor, rows: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses and log-sum-exps [K, B] and row weights [3, B] of stored logits under scales [K, C]."""
    (heads, classes), num = scale.shape, len(labels)
    height, columns = 8, min(triton.next_power_of_2(classes), 512)
    tiles = int(triton.cdiv(classes, columns))
    label_scores, partials = scale.new_empty(heads, num), scale.new_empty(2, heads, tiles, num)
    if num:
        with torch.cuda.device_of(logits):
            kernels.stored_partition_kernel[(tiles * int(triton.cdiv(num, height)), heads)](
                *(logits, rows, scale, labels, label_scores, *partials, logits.stride(0), logits.shape[1]),
                *(num, classes),
                BM=height,
                BN=columns,
                num_warps=4,
            )
    return _merge(labels, None, label_scores, partials, 0.0, -100, classes, True)


def _merge(
    labels: Tensor,
    class_weights: Tensor | None,
    label_scores: Tensor,
    partials: Tensor,
    label_smoothing: float,
    ignore_index: int,
    classes: int,
    mean: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses and log-sum-exps [K, N] and row weights [3, N] from partials [2 or 3, K, column tiles, N]."""
    heads, num = label_scores.shape
    losses, lse, weights = (label_scores.new_empty(rows, num) for rows in (heads, heads, 3))
    top, part, *rest = partials
    if num:
        with torch.cuda.device_of(labels):
            kernels.row_kernel[(int(triton.cdiv(num, 16)), heads)](
                *(labels, class_weights, label_scores, top, part, rest[0] if rest else None, losses, lse, weights),
                *(label_smoothing, ignore_index, partials.shape[2], num, classes),
                MEAN=mean,
                BM=16,
                BT=64,
                BL=1024,
                num_warps=4,
            )
    return losses, lse, weights


def cross_entropy_backward(
    grad: Tensor,
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    offset: Tensor | None,
    class_weights: Tensor | None,
    lse: Tensor,
    row_weights: Tensor,
    z: Tensor,
    smooth: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of features, weight, scale, bias and offset for those of losses, grad [K, N], if needed.

    dW is one product over dz in the type of weight, or, where z was not kept, a float32 sum of one for every chunk.
    """
    num, (heads, classes, _) = len(features), weight.shape
    need_x, need_w, *need_vectors = needs
    products = [Product.of(features, each) for each in weight]
    whole = z.dim() == 3
    dx = features.new_empty(features.shape if need_x else (0,))
    dw = (weight.new_empty if whole else weight.new_zeros)(
        weight.shape if need_w else (0,), dtype=weight.dtype if whole else torch.float32
    )
    sums: list[tuple[Tensor | None, ...]] = []
    for rows, chunk in [(slice(0, num), z)] if whole else _chunks(products, bias, labels):
        dz = features.new_empty(chunk.shape) if need_x or need_w else None
        inputs = labels[rows], class_weights, lse[:, rows], row_weights[:, rows], grad[:, rows]
        sums.append(_gradient(chunk, None, scale, offset, *inputs, smooth, dz, classes, need_vectors))
        if dz is not None:
            parts = [product.rows(rows.start, rows.stop) for product in products]
            _multiply(dz[:, :, :classes], parts, dx[rows] if need_x else None, dw if need_w else None, whole)
    ds, dshift = (_joined(parts) for parts in zip(*sums, strict=True))
    return dx, dw.to(weight.dtype), *_total(ds, dshift, scale, heads, classes, need_vectors, lse)


def rescaled_cross_entropy_backward(
    grad: Tensor, logits: Tensor, scale: Tensor, labels: Tensor, rows: Tensor | None, lse: Tensor, row_weights: Tensor
) -> Tensor:
    """Return the gradient of scale [K, C] for those of losses, grad [K, B]."""
    classes = scale.shape[1]
    z, needs = logits[:, None], [True, False, False]
    partials = _gradient(z, rows, scale, None, labels, None, lse, row_weights, grad, False, None, classes, needs)
    return _total(*partials, scale, len(scale), classes, needs, lse)[0]


def _chunks(products: list[Product], bias: Tensor | None, labels: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, z [rows, K, width]) for chunks of rows whose z is computed again."""
    num, classes = len(labels), len(products[0].w)
    width = classes + -classes % 16
    size = max(CHUNK_BYTES // (4 * len(products) * width), 1)
    for start in range(0, num, size):
        rows = slice(start, min(start + size, num))
        parts = [product.rows(rows.start, rows.stop) for product in products]
        z = parts[0].new(rows.stop - rows.start, len(products), width)
        unused = parts[0].new(3, parts[0].column_tiles, len(z))
        for head, part in enumerate(parts):
            vectors = None, None if bias is None else bias[head], None
            args = labels[rows], None, unused[0, 0], unused[1], unused[2], None
            part.launch(kernels.partition_kernel, *vectors, *args, z[:, head], len(products) * width, width)
        yield rows, z


def _gradient(
    z: Tensor,
    rows: Tensor | None,
    scale: Tensor | None,
    offset: Tensor | None,
    labels: Tensor,
    class_weights: Tensor | None,
    lse: Tensor,
    row_weights: Tensor,
    grad: Tensor,
    smooth: bool,
    dz: Tensor | None,
    classes: int,
    needs: list[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Store dz [N, K, width] if wanted; return partial sums [K, row tiles, C] for scale, and for bias and offset."""
    heads, num = grad.shape
    height, columns = 32, 64
    row_tiles = int(triton.cdiv(num, height))
    ds, dshift = (
        lse.new_empty(heads, row_tiles, classes) if need else None for need in (needs[0], needs[1] or needs[2])
    )
    if num:
        with torch.cuda.device_of(z):
            kernels.gradient_kernel[(int(triton.cdiv(z.shape[2], columns)) * row_tiles, heads)](
                *(z, rows, scale, offset, labels, class_weights, lse, *row_weights[:2]),
                *(row_weights[2] if smooth else None, grad, dz, ds, dshift),
                *(z.stride(0), 0 if z.shape[1] == 1 else z.stride(1), z.shape[2], lse.stride(0), *grad.stride()),
                *(heads * z.shape[2], num, classes),
                BM=height,
                BN=columns,
                num_warps=4,
            )
    return ds, dshift


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """Return the partial sums [K, row tiles, C] of all chunks together, if any are wanted."""
    wanted = [part for part in parts if part is not None]
    return torch.cat(wanted, 1) if len(wanted) > 1 else wanted[0] if wanted else None


def _multiply(dz: Tensor, parts: list[Product], dx: Tensor | None, dw: Tensor | None, whole: bool) -> None:
    """Set dx = sum over heads of dz @ W, and set dw = dz.T @ X, or add to it where there are other rows."""
    for head, part in enumerate(parts):
        x, w, each = part.x[:, : part.width], part.w[:, : part.width], dz[:, head]
        with torch.autocast(dz.device.type, enabled=False):
            if dx is not None:
                torch.addmm(dx, each, w, beta=int(head > 0), out=dx)
            if dw is not None and whole:
                torch.mm(each.T, x, out=dw[head])
        if dw is not None and not whole:
            part.add_gradients(each, None, dw[head])


def _total(
    ds_part: Tensor | None,
    dshift_part: Tensor | None,
    scale: Tensor | None,
    heads: int,
    classes: int,
    needs: list[bool],
    like: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients [K, C] of scale, bias and offset, each empty unless needed, from partial sums."""
    parts = [part for part in (ds_part, dshift_part) if part is not None]
    ds, dbias, doffset = (like.new_empty((heads, classes) if need else 0) for need in needs)
    if parts:
        columns = 64
        with torch.cuda.device_of(like):
            kernels.sum_kernel[(int(triton.cdiv(classes, columns)), heads)](
                *(ds_part, dshift_part, scale),
                *(out if need else None for out, need in zip((ds, dbias, doffset), needs, strict=True)),
                *(parts[0].shape[1], classes),
                BR=16,
                BN=columns,
                num_warps=4,
            )
    return ds, dbias, doffset
