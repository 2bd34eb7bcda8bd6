"""The kernels of a linear head: each computes the shared tile of scores and reduces it; only one stores all of [M, C].

Partial results of column (or row) tiles are stored and merged afterwards, never by atomics, so every run gives bitwise
equal results. Besides, float atomics in an epilogue make ptxas serialise wgmma on sm_90 under Triton 3.6.0 (warning
C7515).
"""

import triton
import triton.language as tl

from .tile import class_vector, dot_block, dot_tile, halves, log2, score, tile_of

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def store_kernel(
    x_ptr,
    w_ptr,
    scale_ptr,
    shift_ptr,
    row_ptr,
    column_ptr,
    out_ptr,
    tau,
    M,
    C,
    D,
    x_stride,
    w_stride,
    NORMS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store out [M, C] = score + row column^T; NORMS: scaled by ||w||^-tau, the norms from the same pass over W."""
    pm, pn = tile_of(M, C, BM, BN, GROUP)
    rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
    z, squares = dot_tile(x_ptr, w_ptr, rm, rn, M, C, D, x_stride, w_stride, BM, BN, BK, NORMS, PRECISION)
    if NORMS:
        z *= tl.where(squares > 0, tl.exp2(-0.5 * tau * log2(squares, FAST)), 1.0)[None, :]
    z = score(z, scale_ptr, shift_ptr, rn, C)
    if row_ptr is not None:
        z += tl.load(row_ptr + rm, mask=rm < M, other=0.0)[:, None] * class_vector(column_ptr, rn, C)
    place = out_ptr + rm[:, None].to(tl.int64) * C + rn[None, :]
    tl.store(place, z.to(out_ptr.dtype.element_ty), mask=(rm[:, None] < M) & (rn[None, :] < C))


@triton.jit
def label_kernel(
    x_ptr,
    w_ptr,
    scale_ptr,
    shift_ptr,
    y_ptr,
    label_score_ptr,
    M,
    C,
    D,
    x_stride,
    w_stride,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store label_score [M], each row's score at its label: the diagonal of a tile of the labels' rows of W (BM = BN).

    The rivals' scores come from the same tile arithmetic, so a duplicate of the label's class ties to the last bit.
    """
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.load(y_ptr + rm, mask=rm < M, other=0).to(tl.int32)
    z, _ = dot_tile(x_ptr, w_ptr, rm, rn, M, C, D, x_stride, w_stride, BM, BN, BK, False, PRECISION)
    z = score(z, scale_ptr, shift_ptr, rn, C)
    diagonal = tl.arange(0, BM)[:, None] == tl.arange(0, BN)[None, :]
    tl.store(label_score_ptr + rm, tl.sum(tl.where(diagonal, z, 0.0), 1), mask=rm < M)


@triton.jit
def num_beaten(z, first, y, label_score, scale_ptr, shift_ptr, C, PARTS: tl.constexpr):
    """Return how many of the classes from `first` on, of products z, the label beats [BM]; it never beats a NaN.

    The columns are taken in PARTS, one after the other, so that only a part's temporaries are in registers.
    """
    if PARTS > 1:
        left, right = halves(z)
        beaten = num_beaten(left, first, y, label_score, scale_ptr, shift_ptr, C, PARTS // 2)
        first += left.shape[1]
        beaten += num_beaten(right, first, y, label_score, scale_ptr, shift_ptr, C, PARTS // 2)
    else:
        rn = first + tl.arange(0, z.shape[1])
        z = score(z, scale_ptr, shift_ptr, rn, C)
        other = (rn[None, :] < C) & (rn[None, :] != y[:, None])
        is_behind = (z < label_score[:, None]) | ((z == label_score[:, None]) & (rn[None, :] > y[:, None]))
        beaten = tl.sum((other & is_behind).to(tl.int32), 1)
    return beaten


@triton.jit
def rank_kernel(
    x,
    w,
    scale_ptr,
    shift_ptr,
    y_ptr,
    label_score_ptr,
    num_behind_ptr,
    M,
    C,
    D,
    x_stride,
    w_stride,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    TMA: tl.constexpr,
):
    """Store num_behind [column tiles, M]: how many classes of the tile the label beats."""
    pm, pn = tile_of(M, C, BM, BN, GROUP)
    z = dot_block(x, w, pm, pn, M, C, D, x_stride, w_stride, BM, BN, BK, PRECISION, TMA)
    rm = pm * BM + tl.arange(0, BM)
    y = tl.load(y_ptr + rm, mask=rm < M, other=0).to(tl.int32)
    label_score = tl.load(label_score_ptr + rm, mask=rm < M, other=0.0)
    num_behind = num_beaten(z, pn * BN, y, label_score, scale_ptr, shift_ptr, C, PARTS)
    tl.store(num_behind_ptr + pn.to(tl.int64) * M + rm, num_behind, mask=rm < M)


@triton.jit
def top_class(z, first, y, shift_ptr, C, PARTS: tl.constexpr):
    """Return of the classes from `first` on the top score, its first class, sum exp(score - top), the label's score.

    All are [BM]; the last is 0 where the label is elsewhere. A NaN counts as infinite, and makes the sum NaN; -inf
    counts as the lowest number, that of the columns past C, which come after all classes.
    """
    if PARTS > 1:
        left, right = halves(z)
        top, place, total, label_score = top_class(left, first, y, shift_ptr, C, PARTS // 2)
        first += left.shape[1]
        top_right, place_right, total_right, label_right = top_class(right, first, y, shift_ptr, C, PARTS // 2)
        place = tl.where(top >= top_right, place, place_right)
        label_score += label_right
        top_left, top = top, tl.maximum(top, top_right)
        total = total * tl.exp2((top_left - top) * LOG2_E) + total_right * tl.exp2((top_right - top) * LOG2_E)
    else:
        rn = first + tl.arange(0, z.shape[1])[None, :]
        z = score(z, None, shift_ptr, first + tl.arange(0, z.shape[1]), C)
        z = tl.where(rn < C, tl.where(z == z, tl.maximum(z, LOWEST), float("inf")), LOWEST)
        label_score = tl.sum(tl.where(rn == y[:, None], z, 0.0), 1)
        top = tl.max(z, 1)
        place = tl.min(tl.where(z == top[:, None], rn, C), 1)
        total = tl.sum(tl.exp2((z - top[:, None]) * LOG2_E), 1)
    return top, place, total, label_score


@triton.jit
def prediction_kernel(
    x,
    w,
    shift_ptr,
    y_ptr,
    label_score_ptr,
    top_ptr,
    place_ptr,
    sum_ptr,
    M,
    C,
    D,
    x_stride,
    w_stride,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    TMA: tl.constexpr,
):
    """Store partials [column tiles, M] of the largest score, its class and the sum of exp(score - largest).

    The tile that holds a row's label stores label_score [M].
    """
    pm, pn = tile_of(M, C, BM, BN, GROUP)
    z = dot_block(x, w, pm, pn, M, C, D, x_stride, w_stride, BM, BN, BK, PRECISION, TMA)
    rm = pm * BM + tl.arange(0, BM)
    y = tl.load(y_ptr + rm, mask=rm < M, other=0).to(tl.int32)
    top, place, total, label_score = top_class(z, pn * BN, y, shift_ptr, C, PARTS)
    partial = pn.to(tl.int64) * M + rm
    tl.store(top_ptr + partial, top, mask=rm < M)
    tl.store(place_ptr + partial, place, mask=rm < M)
    tl.store(sum_ptr + partial, total, mask=rm < M)
    tl.store(label_score_ptr + rm, label_score, mask=(rm < M) & (y >= pn * BN) & (y < pn * BN + BN))


@triton.jit
def column_sum_kernel(
    x_ptr,
    w_ptr,
    grad_ptr,
    ds_ptr,
    grad_stride,
    M,
    C,
    D,
    x_stride,
    w_stride,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store ds [row tiles, C], sums over rows of grad * X @ W.T: the gradient of a per-class scale."""
    pm, pn = tile_of(M, C, BM, BN, GROUP)
    rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
    z, _ = dot_tile(x_ptr, w_ptr, rm, rn, M, C, D, x_stride, w_stride, BM, BN, BK, False, PRECISION)
    inside = (rm[:, None] < M) & (rn[None, :] < C)
    place = grad_ptr + rm[:, None].to(tl.int64) * grad_stride + rn[None, :]
    grad = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(ds_ptr + pm.to(tl.int64) * C + rn, tl.sum(tl.where(inside, grad * z, 0.0), 0), mask=rn < C)


@triton.jit
def sgd_kernel(
    parameter_ptr,
    velocity_ptr,
    gradient_ptr,
    copy_ptr,
    rate_ptr,
    decay_ptr,
    share_ptr,
    momentum,
    size,
    BLOCK: tl.constexpr,
):
    """Take a step of SGD on parameters [K, size], with rates share * rate [K], and store a copy of them if wanted."""
    head = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    place += head * size
    parameter = tl.load(parameter_ptr + place, mask=inside)
    velocity = momentum * tl.load(velocity_ptr + place, mask=inside)
    velocity += tl.load(gradient_ptr + place, mask=inside).to(tl.float32) + tl.load(decay_ptr + head) * parameter
    parameter -= tl.load(share_ptr) * tl.load(rate_ptr + head) * velocity
    tl.store(velocity_ptr + place, velocity, mask=inside)
    tl.store(parameter_ptr + place, parameter, mask=inside)
    if copy_ptr is not None:
        tl.store(copy_ptr + place, parameter.to(copy_ptr.dtype.element_ty), mask=inside)
