"""The kernels of tau intervals: between which taus each label is right; fastlt.ops.intervals has the proof."""

import triton
import triton.language as tl

from .tile import class_vector, dot_block, dot_tile, halves, log2, reciprocal, score, tile_of

TINY = tl.constexpr(1.1754943508222875e-38)  # the smallest normal float32: logits below it count as zero
HUGE = tl.constexpr(3.4028234663852886e38)


@triton.jit
def log_norm_kernel(w_ptr, out_ptr, C, D, w_stride, BN: tl.constexpr, BK: tl.constexpr):
    """Store log2 ||w_j|| [C] from sums in float64: equal norms have equal logarithms; 0 for a zero row."""
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    block = w_ptr + rn[:, None].to(tl.int64) * w_stride + rk[None, :]
    squares = tl.zeros((BN, BK), tl.float64)
    for start in range(0, D, BK):
        w = tl.load(block + start, mask=(rn[:, None] < C) & (start + rk[None, :] < D), other=0.0).to(tl.float64)
        squares += w * w
    total = tl.sum(squares, 1)
    total = tl.where(total == 0, 1.0, total)
    tl.store(out_ptr + rn, (0.5 * tl.log2(total)).to(tl.float32), mask=rn < C)


@triton.jit
def bounds(
    z,
    first,
    y,
    label_height,
    label_slope,
    shift_ptr,
    slope_ptr,
    C,
    LOG: tl.constexpr,
    FAST: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Return the bounds low [BM] and high [BM] that the classes from `first` on set to tau, from their products z.

    The columns are taken in PARTS, one after the other, so that only a part's temporaries are in registers.
    """
    if PARTS > 1:
        left, right = halves(z)
        low, high = bounds(left, first, y, label_height, label_slope, shift_ptr, slope_ptr, C, LOG, FAST, PARTS // 2)
        first += left.shape[1]
        low_right, high_right = bounds(
            right, first, y, label_height, label_slope, shift_ptr, slope_ptr, C, LOG, FAST, PARTS // 2
        )
        low, high = tl.maximum(low, low_right), tl.minimum(high, high_right)
    else:
        rn = first + tl.arange(0, z.shape[1])
        z = score(z, None, shift_ptr, rn, C)
        run = tl.load(slope_ptr + rn, mask=rn < C, other=float("nan"))[None, :] - label_slope[:, None]
        if LOG:
            z = log2(tl.maximum(z, 0.0), FAST)
        tau = (z - label_height[:, None]) * reciprocal(run, FAST)
        tau = tl.where(tau != tau, tl.where(rn[None, :] < y[:, None], float("inf"), float("-inf")), tau)
        low = tl.max(tl.where((run >= 0) & (rn[None, :] != y[:, None]), tau, float("-inf")), 1)
        high = tl.min(tl.where(run < 0, tau, float("inf")), 1)
    return low, high


@triton.jit
def interval_kernel(
    x,
    w,
    shift_ptr,
    slope_ptr,
    y_ptr,
    label_score_ptr,
    low_ptr,
    high_ptr,
    M,
    C,
    D,
    x_stride,
    w_stride,
    LOG: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    TMA: tl.constexpr,
):
    """Store partials [column tiles, M] of the bounds that a tile's classes set to the taus at which the label is right.

    Lines: log2 z_j - tau slope_j if LOG, else z_j + shift_j - tau slope_j. A label that is always beaten gets low = inf
    or high = -inf. Infinities need no special case: log2 0 = -inf never binds, and parallel lines (run 0) bind by the
    sign of their distance. The only NaN, 0 * inf, comes from identical lines, where the lower index wins. A label that
    is not positive is put at a finite height below all others; without a positive rival its row keeps (-inf, inf), and
    finish_kernel decides it.
    """
    pm, pn = tile_of(M, C, BM, BN, GROUP)
    z = dot_block(x, w, pm, pn, M, C, D, x_stride, w_stride, BM, BN, BK, PRECISION, TMA)
    rm = pm * BM + tl.arange(0, BM)
    y = tl.load(y_ptr + rm, mask=rm < M, other=0).to(tl.int32)
    label_height = tl.load(label_score_ptr + rm, mask=rm < M, other=0.0)
    if LOG:
        label_height = tl.where(label_height >= TINY, log2(label_height, FAST), -1e30)
    label_slope = tl.load(slope_ptr + y)
    low, high = bounds(z, pn * BN, y, label_height, label_slope, shift_ptr, slope_ptr, C, LOG, FAST, PARTS)
    partial = pn.to(tl.int64) * M + rm
    tl.store(low_ptr + partial, low, mask=rm < M)
    tl.store(high_ptr + partial, high, mask=rm < M)


@triton.jit
def signed_bounds(
    x_ptr,
    w_ptr,
    slope_ptr,
    y,
    label_score,
    rm,
    M,
    C,
    D,
    x_stride,
    w_stride,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the bounds of rows without a positive logit from a walk over all classes.

    A negative label can win only where all logits are negative; the lines change sign, which exchanges the sides and
    leaves the crossings alone. A zero label is beaten only by a positive or an earlier zero rival.
    """
    label_slope = tl.load(slope_ptr + y)
    sign = tl.where(label_score <= -TINY, -1.0, 1.0)
    zero = tl.abs(label_score) < TINY
    label_height = log2(tl.minimum(tl.maximum(label_score * sign, TINY), HUGE), FAST)
    inf = float("inf")
    low, high = tl.full((BM,), -inf, tl.float32), tl.full((BM,), inf, tl.float32)
    for start in range(0, C, BN):
        rn = start + tl.arange(0, BN)
        z, _ = dot_tile(x_ptr, w_ptr, rm, rn, M, C, D, x_stride, w_stride, BM, BN, BK, False, PRECISION)
        other = (rn[None, :] < C) & (rn[None, :] != y[:, None])
        lower = rn[None, :] < y[:, None]
        z *= sign[:, None]
        rival = other & (z >= TINY)
        beaten = tl.where(zero[:, None], (z >= TINY) | (lower & (z > -TINY)), (sign[:, None] < 0) & (z < TINY))
        rise = log2(tl.minimum(tl.maximum(z, TINY), HUGE), FAST) - label_height[:, None]
        run = class_vector(slope_ptr, rn, C) - label_slope[:, None]
        tau = rise * reciprocal(run, FAST)
        rise *= sign[:, None]
        run *= sign[:, None]
        level = rival & (run == 0) & ((rise > 0) | ((rise == 0) & lower))
        beaten = (other & (beaten | level)) | (z != z)
        low = tl.maximum(low, tl.max(tl.where(beaten, inf, tl.where(rival & (run > 0), tau, -inf)), 1))
        high = tl.minimum(high, tl.min(tl.where(rival & (run < 0), tau, inf), 1))
    return low, high


@triton.jit
def finish_kernel(
    x_ptr,
    w_ptr,
    slope_ptr,
    y_ptr,
    label_score_ptr,
    low_part_ptr,
    high_part_ptr,
    low_ptr,
    high_ptr,
    T,
    M,
    C,
    D,
    x_stride,
    w_stride,
    LOG: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store low [M] and high [M], the tightest of the bounds [T, M] of T column tiles; (inf, -inf) if never right.

    Rows that interval_kernel leaves open, without a positive logit, are decided here. They are rare: a program that has
    none skips the walk, so nothing is sorted and no number is read by the host.
    """
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    inf = float("inf")
    low, high = tl.full((BM,), -inf, tl.float32), tl.full((BM,), inf, tl.float32)
    for start in range(0, T, 32):
        rt = start + tl.arange(0, 32)
        place, inside = rt[:, None].to(tl.int64) * M + rm[None, :], (rt[:, None] < T) & (rm[None, :] < M)
        low = tl.maximum(low, tl.max(tl.load(low_part_ptr + place, mask=inside, other=-inf), 0))
        high = tl.minimum(high, tl.min(tl.load(high_part_ptr + place, mask=inside, other=inf), 0))
    label_score = tl.load(label_score_ptr + rm, mask=rm < M, other=1.0)
    if LOG:
        signed = label_score < TINY
        is_open = signed & (low == -inf) & (high == inf)
        low = tl.where(signed & (is_open == 0), inf, low)
        if tl.max(is_open.to(tl.int32), 0) > 0:
            y = tl.load(y_ptr + rm, mask=rm < M, other=0).to(tl.int32)
            signed_low, signed_high = signed_bounds(
                x_ptr,
                w_ptr,
                slope_ptr,
                y,
                label_score,
                rm,
                M,
                C,
                D,
                x_stride,
                w_stride,
                BM,
                BN,
                BK,
                FAST,
                PRECISION,
            )
            low, high = tl.where(is_open, signed_low, low), tl.where(is_open, signed_high, high)
    right = (low < high) & (label_score == label_score)
    tl.store(low_ptr + rm, tl.where(right, low, inf), mask=rm < M)
    tl.store(high_ptr + rm, tl.where(right, high, -inf), mask=rm < M)
