"""The kernels of tau intervals: between which taus each label is right; fastlt.ops.intervals has the proof."""

import triton
import triton.language as tl

from .tile import class_vector, dot_tile, log2, reciprocal, score, tile_of

TINY = tl.constexpr(1.1754943508222875e-38)  # the smallest normal float32: logits below it count as zero
HUGE = tl.constexpr(3.4028234663852886e38)


@triton.jit
def interval_kernel(
    x_ptr,
    w_ptr,
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
):
    """Store partials [column tiles, M] of the bounds that a tile's classes set to the taus at which the label is right.

    Lines: log2 z_j - tau slope_j if LOG, else z_j + shift_j - tau slope_j. A label that is always beaten gets low = inf
    or high = -inf. Infinities need no special case: log2 0 = -inf never binds, and parallel lines (run 0) bind by the
    sign of their distance. The only NaN, 0 * inf, comes from identical lines, where the lower index wins. A label that
    is not positive is put at a finite height below all others; without a positive rival its row keeps (-inf, inf), and
    signed_interval_kernel decides it.
    """
    pm, pn = tile_of(M, C, BM, BN, GROUP)
    rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
    z, _ = dot_tile(x_ptr, w_ptr, rm, rn, M, C, D, x_stride, w_stride, BM, BN, BK, False, PRECISION)
    z = score(z, None, shift_ptr, rn, C)
    y = tl.load(y_ptr + rm, mask=rm < M, other=0).to(tl.int32)
    label_score = tl.load(label_score_ptr + rm, mask=rm < M, other=0.0)
    run = tl.load(slope_ptr + rn, mask=rn < C, other=float("nan"))[None, :] - tl.load(slope_ptr + y)[:, None]
    if LOG:
        label_score = tl.where(label_score >= TINY, log2(label_score, FAST), -1e30)
        z = log2(tl.maximum(z, 0.0), FAST)
    tau = (z - label_score[:, None]) * reciprocal(run, FAST)
    tau = tl.where(tau != tau, tl.where(rn[None, :] < y[:, None], float("inf"), float("-inf")), tau)
    low = tl.max(tl.where((run >= 0) & (rn[None, :] != y[:, None]), tau, float("-inf")), 1)
    high = tl.min(tl.where(run < 0, tau, float("inf")), 1)
    partial = pn.to(tl.int64) * M + rm
    tl.store(low_ptr + partial, low, mask=rm < M)
    tl.store(high_ptr + partial, high, mask=rm < M)


@triton.jit
def signed_interval_kernel(
    x_ptr,
    w_ptr,
    slope_ptr,
    order_ptr,
    count_ptr,
    y_ptr,
    low_ptr,
    high_ptr,
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
    """Decide the rows that interval_kernel leaves open, without a positive logit: the first `count` of order [M].

    A negative label can win only where all logits are negative; the lines change sign, which exchanges the sides and
    leaves the crossings alone. A zero label is beaten only by a positive or an earlier zero rival. One program walks
    over all classes for BM = BN rows. Programs past `count` return at once, so nothing is copied to the host.
    """
    if tl.program_id(0) * BM >= tl.load(count_ptr):
        return
    place = tl.program_id(0) * BM + tl.arange(0, BM)
    rm = tl.load(order_ptr + place, mask=place < M, other=0).to(tl.int32)
    y = tl.load(y_ptr + rm).to(tl.int32)
    label_slope = tl.load(slope_ptr + y)
    label_score, _ = dot_tile(x_ptr, w_ptr, rm, y, M, C, D, x_stride, w_stride, BM, BN, BK, False, PRECISION)
    label_score = tl.sum(tl.where(tl.arange(0, BM)[:, None] == tl.arange(0, BN)[None, :], label_score, 0.0), 1)
    sign = tl.where(label_score <= -TINY, -1.0, 1.0)
    zero = tl.abs(label_score) < TINY
    label_height = log2(tl.minimum(tl.maximum(label_score * sign, TINY), HUGE), FAST)
    low = tl.full((BM,), float("-inf"), tl.float32)
    high = tl.full((BM,), float("inf"), tl.float32)
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
        inf = float("inf")
        low = tl.maximum(low, tl.max(tl.where(beaten, inf, tl.where(rival & (run > 0), tau, -inf)), 1))
        high = tl.minimum(high, tl.min(tl.where(rival & (run < 0), tau, inf), 1))
    tl.store(low_ptr + rm, low, mask=place < tl.load(count_ptr))
    tl.store(high_ptr + rm, high, mask=place < tl.load(count_ptr))
