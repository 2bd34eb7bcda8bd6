"""The kernels of a linear head's cross entropy, of K heads side by side, and of heads that rescale stored logits.

In turn: partial log-sum-exps of tiles of classes, either of the product itself or of stored logits; a merge of these
that makes each row's loss; and, for the gradients, one pass over the logits and one over its partial column sums.

Legend: M rows, C classes, K heads; z = X @ W.T + bias [M, K, width], width >= C; score = z * scale + offset; v class
weights; `lse` is in base 2. Row i weighs r_i, 0 if it is ignored, NaN if its label is out of range, and e is the label
smoothing; its three weights are soft_i = r_i ((1 - e) v_y + e/C sum_j v_j), target_i = r_i (1 - e) v_y and spread_i =
r_i e/C.
"""

import triton
import triton.language as tl

from .tile import class_vector, dot_tile, score, tile_of

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def clamped_labels(y_ptr, rm, M, C):
    """Return the labels of rows rm; those out of range, whose rows weigh nothing or NaN, as a class that exists."""
    y = tl.load(y_ptr + rm, mask=rm < M, other=0).to(tl.int64)
    return tl.minimum(tl.maximum(y, 0), C - 1).to(tl.int32)


@triton.jit
def row_and_column(columns, BN: tl.constexpr):
    """Return a program's row tile and its column tile; only the grid's first axis has room for all of them."""
    tiles = tl.cdiv(columns, BN)
    return tl.program_id(0) // tiles, tl.program_id(0) % tiles


@triton.jit
def store_partials(u, y, rm, rn, pn, M, C, label_score_ptr, top_ptr, sum_ptr, BN: tl.constexpr):
    """Store a tile's part [M] of the log-sum-exp of scores u, as (top, sum), and label_score of the labels in it."""
    label_score = tl.sum(tl.where(rn[None, :] == y[:, None], u, 0.0), 1)
    tl.store(label_score_ptr + rm, label_score, mask=(rm < M) & (y >= pn * BN) & (y < pn * BN + BN))
    u = tl.where(rn[None, :] < C, u * LOG2_E, float("-inf"))
    top = tl.max(u, 1)
    tl.store(top_ptr + rm, top, mask=rm < M)
    tl.store(sum_ptr + rm, tl.sum(tl.exp2(u - top[:, None]), 1), mask=rm < M)


@triton.jit
def partition_kernel(
    x_ptr,
    w_ptr,
    scale_ptr,
    bias_ptr,
    offset_ptr,
    y_ptr,
    class_weight_ptr,
    label_score_ptr,
    top_ptr,
    sum_ptr,
    smooth_ptr,
    z_ptr,
    z_stride,
    width,
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
    """Store one head's label_score [M], partials [column tiles, M] and, if wanted, sums of v * score and z itself."""
    pm, pn = tile_of(M, C, BM, BN, GROUP)
    rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
    z, _ = dot_tile(x_ptr, w_ptr, rm, rn, M, C, D, x_stride, w_stride, BM, BN, BK, False, PRECISION)
    if bias_ptr is not None:
        z += class_vector(bias_ptr, rn, C)
    if z_ptr is not None:
        place = z_ptr + rm[:, None].to(tl.int64) * z_stride + rn[None, :]
        tl.store(place, z, mask=(rm[:, None] < M) & (rn[None, :] < width))
    u = score(z, scale_ptr, offset_ptr, rn, C)
    partial = pn.to(tl.int64) * M
    y = clamped_labels(y_ptr, rm, M, C)
    store_partials(u, y, rm, rn, pn, M, C, label_score_ptr, top_ptr + partial, sum_ptr + partial, BN)
    if smooth_ptr is not None:
        if class_weight_ptr is not None:
            smooth = u * class_vector(class_weight_ptr, rn, C)
        else:
            smooth = tl.where(rn[None, :] < C, u, 0.0)
        tl.store(smooth_ptr + partial + rm, tl.sum(smooth, 1), mask=rm < M)


@triton.jit
def stored_partition_kernel(
    z_ptr,
    row_ptr,
    scale_ptr,
    y_ptr,
    label_score_ptr,
    top_ptr,
    sum_ptr,
    z_stride,
    width,
    M,
    C,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Store label_score [K, M] and partials [K, column tiles, M] of rows of stored logits, those named by row_ptr."""
    pm, pn = row_and_column(C, BN)
    head = tl.program_id(1)
    rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
    rows = rm.to(tl.int64)
    if row_ptr is not None:
        rows = tl.load(row_ptr + rm, mask=rm < M, other=0).to(tl.int64)
    inside = (rm[:, None] < M) & (rn[None, :] < width)
    z = tl.load(z_ptr + rows[:, None] * z_stride + rn[None, :], mask=inside, other=0.0).to(tl.float32)
    u = tl.where(rn[None, :] < C, z * class_vector(scale_ptr + head * C, rn, C), 0.0)
    partial = (head * tl.cdiv(C, BN) + pn).to(tl.int64) * M
    label_score = label_score_ptr + head.to(tl.int64) * M
    y = clamped_labels(y_ptr, rm, M, C)
    store_partials(u, y, rm, rn, pn, M, C, label_score, top_ptr + partial, sum_ptr + partial, BN)


@triton.jit
def row_kernel(
    y_ptr,
    class_weight_ptr,
    label_score_ptr,
    top_ptr,
    sum_ptr,
    smooth_ptr,
    loss_ptr,
    lse_ptr,
    weight_ptr,
    smoothing,
    ignore_index,
    num_tiles,
    M,
    C,
    MEAN: tl.constexpr,
    BM: tl.constexpr,
    BT: tl.constexpr,
    BL: tl.constexpr,
):
    """Merge the partials of all column tiles into losses and lse [K, M], and store the three weights [3, M] of a row.

    MEAN: the rows' weights r sum to 1, weighted by v. Every program adds them up anew, in the same order, which saves
    a launch; labels read grow with M^2, so a mean over a whole data set is better taken of batches.
    """
    head = tl.program_id(1)
    rm, rt = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BT)
    first = head.to(tl.int64) * num_tiles * M
    lse = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    smooth = tl.zeros((BM,), tl.float32)
    for start in range(0, num_tiles, BT):
        inside = ((start + rt)[:, None] < num_tiles) & (rm[None, :] < M)
        place = first + (start + rt)[:, None].to(tl.int64) * M + rm[None, :]
        top = tl.load(top_ptr + place, mask=inside, other=float("-inf"))
        part = tl.load(sum_ptr + place, mask=inside, other=0.0)
        highest = tl.maximum(lse, tl.max(top, 0))
        total = total * tl.exp2(lse - highest) + tl.sum(part * tl.exp2(top - highest[None, :]), 0)
        lse = highest
        if smooth_ptr is not None:
            smooth += tl.sum(tl.load(smooth_ptr + place, mask=inside, other=0.0), 0)
    lse += tl.log2(total)

    y = tl.load(y_ptr + rm, mask=rm < M, other=0).to(tl.int64)
    weight = tl.where(y == ignore_index, 0.0, tl.where((y < 0) | (y >= C), float("nan"), 1.0))
    if MEAN:
        sums = tl.zeros((BL,), tl.float32)
        for start in range(0, M, BL):
            rl = start + tl.arange(0, BL)
            kept = (rl < M) & (tl.load(y_ptr + rl, mask=rl < M, other=0).to(tl.int64) != ignore_index)
            if class_weight_ptr is not None:
                sums += tl.where(kept, tl.load(class_weight_ptr + clamped_labels(y_ptr, rl, M, C)), 0.0)
            else:
                sums += kept.to(tl.float32)
        weight /= tl.sum(sums)
    target = weight * (1.0 - smoothing)
    spread = weight * (smoothing / C)
    everything = 1.0 * C
    if class_weight_ptr is not None:
        target *= tl.load(class_weight_ptr + clamped_labels(y_ptr, rm, M, C))
        sums = tl.zeros((BL,), tl.float32)
        for start in range(0, C, BL):
            rc = start + tl.arange(0, BL)
            sums += tl.load(class_weight_ptr + rc, mask=rc < C, other=0.0)
        everything = tl.sum(sums)
    soft = target + spread * everything
    row = head.to(tl.int64) * M + rm
    loss = soft * lse * LN_2 - target * tl.load(label_score_ptr + row, mask=rm < M, other=0.0)
    if smooth_ptr is not None:
        loss -= spread * smooth
    tl.store(loss_ptr + row, loss, mask=rm < M)
    tl.store(lse_ptr + row, lse, mask=rm < M)
    first_head = (rm < M) & (head == 0)
    tl.store(weight_ptr + rm, soft, mask=first_head)
    tl.store(weight_ptr + M + rm, target, mask=first_head)
    tl.store(weight_ptr + 2 * M + rm, spread, mask=first_head)


@triton.jit
def gradient_kernel(
    z_ptr,
    row_ptr,
    scale_ptr,
    offset_ptr,
    y_ptr,
    class_weight_ptr,
    lse_ptr,
    soft_ptr,
    target_ptr,
    spread_ptr,
    grad_ptr,
    dz_ptr,
    ds_ptr,
    dshift_ptr,
    z_stride,
    z_head,
    width,
    lse_head,
    grad_head,
    grad_row,
    dz_stride,
    M,
    C,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Store the loss gradient dz [M, K, width], 0 past C, and partial column sums [K, row tiles, C], as wanted.

    dscore_ij = g_i (soft_i softmax_ij - target_i [j = y_i] - spread_i v_j), g the gradient of row i's loss; dz = dscore
    * scale; ds sums dscore * z and dshift dscore. z may be rows of stored logits, those named by row_ptr.
    """
    pm, pn = row_and_column(width, BN)
    head = tl.program_id(1)
    rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
    rows = rm.to(tl.int64)
    if row_ptr is not None:
        rows = tl.load(row_ptr + rm, mask=rm < M, other=0).to(tl.int64)
    stored = (rm[:, None] < M) & (rn[None, :] < width)
    z_place = z_ptr + rows[:, None] * z_stride + head.to(tl.int64) * z_head + rn[None, :]
    z = tl.load(z_place, mask=stored, other=0.0).to(tl.float32)
    y = clamped_labels(y_ptr, rm, M, C)
    lse = tl.load(lse_ptr + head.to(tl.int64) * lse_head + rm, mask=rm < M, other=0.0)
    grad = tl.load(grad_ptr + head.to(tl.int64) * grad_head + rm.to(tl.int64) * grad_row, mask=rm < M, other=0.0)
    soft = tl.load(soft_ptr + rm, mask=rm < M, other=0.0) * grad
    target = tl.load(target_ptr + rm, mask=rm < M, other=0.0) * grad
    if scale_ptr is not None:
        scale_ptr += head * C
    u = score(z, scale_ptr, offset_ptr, rn, C) * LOG2_E
    dy = tl.exp2(u - lse[:, None]) * soft[:, None] - tl.where(rn[None, :] == y[:, None], target[:, None], 0.0)
    if spread_ptr is not None:
        spread = (tl.load(spread_ptr + rm, mask=rm < M, other=0.0) * grad)[:, None]
        if class_weight_ptr is not None:
            dy -= spread * class_vector(class_weight_ptr, rn, C)
        else:
            dy -= spread
    dy = tl.where((rm[:, None] < M) & (rn[None, :] < C), dy, 0.0)
    partial = (head * tl.cdiv(M, BM) + pm).to(tl.int64) * C + rn
    if ds_ptr is not None:
        tl.store(ds_ptr + partial, tl.sum(dy * z, 0), mask=rn < C)
    if dshift_ptr is not None:
        tl.store(dshift_ptr + partial, tl.sum(dy, 0), mask=rn < C)
    if dz_ptr is not None:
        if scale_ptr is not None:
            dy *= class_vector(scale_ptr, rn, C)
        place = dz_ptr + rm[:, None].to(tl.int64) * dz_stride + head.to(tl.int64) * width + rn[None, :]
        tl.store(place, dy.to(dz_ptr.dtype.element_ty), mask=stored)


@triton.jit
def sum_kernel(
    ds_part_ptr,
    dshift_part_ptr,
    scale_ptr,
    ds_ptr,
    dbias_ptr,
    doffset_ptr,
    num_tiles,
    C,
    BR: tl.constexpr,
    BN: tl.constexpr,
):
    """Store the gradients [K, C] of scale, bias and offset, as wanted, from partial sums [K, row tiles, C]."""
    rn, head = tl.program_id(0) * BN + tl.arange(0, BN), tl.program_id(1)
    rt = tl.arange(0, BR)
    ds = tl.zeros((BN,), tl.float32)
    dshift = tl.zeros((BN,), tl.float32)
    for start in range(0, num_tiles, BR):
        place = (head * num_tiles + start + rt)[:, None].to(tl.int64) * C + rn[None, :]
        inside = ((start + rt)[:, None] < num_tiles) & (rn[None, :] < C)
        if ds_part_ptr is not None:
            ds += tl.sum(tl.load(ds_part_ptr + place, mask=inside, other=0.0), 0)
        if dshift_part_ptr is not None:
            dshift += tl.sum(tl.load(dshift_part_ptr + place, mask=inside, other=0.0), 0)
    out = head * C + rn
    if ds_ptr is not None:
        tl.store(ds_ptr + out, ds, mask=rn < C)
    if doffset_ptr is not None:
        tl.store(doffset_ptr + out, dshift, mask=rn < C)
    if dbias_ptr is not None:
        if scale_ptr is not None:
            dshift *= tl.load(scale_ptr + out, mask=rn < C, other=0.0)
        tl.store(dbias_ptr + out, dshift, mask=rn < C)
