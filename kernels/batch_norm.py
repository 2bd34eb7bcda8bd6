"""Batch norm, addition and rectifier over pixels, forward and backward, in as few passes over memory as there can be.

Forward: moments, then one pass that normalises, adds and rectifies. Backward: sums, then one pass for the gradient of
the pixels. The rectifier's mask comes from the pixels, in the forward pass's own arithmetic. Only where a residual was
added it comes from the output: then the sums' pass adds the gradients of both branches that start at the output, and
stores the masked sum, which is the residual's gradient and all that the last pass needs.

Legend: M pixels (batch x height x width) of C channels, [M, C] contiguous, as in channels_last memory; P shares of the
rows. A program takes one share and BC channels, BM rows at a time. Channel tiles of the same rows are neighbours in the
grid, so that they read neighbouring memory at the same time; the second pass of each pair walks the rows from the last
to the first, since what the first pass read last is still in the L2 cache. The shares' results are stored and merged in
a fixed order, never by atomics, so every run gives bitwise equal results.
"""

import triton
import triton.language as tl


@triton.jit
def normaliser(mean_ptr, variance_ptr, weight_ptr, bias_ptr, channels, inside, eps):
    """Return the mean, the reciprocal standard deviation, the factor and the summand of channels, each [1, BC]."""
    mean = tl.load(mean_ptr + channels, mask=inside, other=0.0)
    rstd = 1.0 / tl.sqrt(tl.load(variance_ptr + channels, mask=inside, other=1.0) + eps)
    scale = tl.load(weight_ptr + channels, mask=inside, other=0.0) * rstd
    bias = tl.load(bias_ptr + channels, mask=inside, other=0.0)
    return mean[None, :], rstd[None, :], scale[None, :], bias[None, :]


@triton.jit
def normalised(x, scale, bias):
    """Return x * scale + bias for pixels x [BM, BC] less the mean: one fused operation, so that its bits never vary."""
    return tl.fma(x, tl.broadcast_to(scale, x.shape), tl.broadcast_to(bias, x.shape))


@triton.jit
def channel_tile(program, C, BC: tl.constexpr):
    """Return a program's share or tile of the rows, its channels, and a mask of those that exist."""
    tiles = tl.cdiv(C, BC)
    channels = program % tiles * BC + tl.arange(0, BC)
    return program // tiles, channels, channels < C


@triton.jit
def pixel_tile(M, C, BM: tl.constexpr, BC: tl.constexpr):
    """Return a program's channels with a mask of those that exist, and its pixels' offsets with such a mask.

    Programs take the rows from the last to the first.
    """
    at, channels, inside = channel_tile(tl.num_programs(0) - 1 - tl.program_id(0), C, BC)
    rows = at * BM + tl.arange(0, BM)
    return channels, inside, rows[:, None].to(tl.int64) * C + channels[None, :], (rows < M)[:, None] & inside[None, :]


@triton.jit
def moments_kernel(x_ptr, mean_ptr, square_ptr, M, C, SHARE, BM: tl.constexpr, BC: tl.constexpr):
    """Store means [P, C] of each share of SHARE rows, and sums of squares about them; sums start at its first row."""
    share, channels, inside = channel_tile(tl.program_id(0), C, BC)
    first = share * SHARE
    last = tl.minimum(first + SHARE, M)
    shift = tl.load(x_ptr + first.to(tl.int64) * C + channels, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BM, BC), tl.float32)
    squares = tl.zeros((BM, BC), tl.float32)
    for start in range(first, last, BM):
        rows = start + tl.arange(0, BM)
        mask = (rows < last)[:, None] & inside[None, :]
        x = tl.load(x_ptr + rows[:, None].to(tl.int64) * C + channels[None, :], mask=mask, other=0.0).to(tl.float32)
        x = tl.where(mask, x - shift[None, :], 0.0)
        total += x
        squares += x * x
    count = (last - first).to(tl.float32)
    mean = tl.sum(total, 0) / count
    place = share * C + channels
    tl.store(mean_ptr + place, shift + mean, mask=inside)
    tl.store(square_ptr + place, tl.sum(squares, 0) - count * mean * mean, mask=inside)


@triton.jit
def merge_kernel(
    mean_ptr,
    square_ptr,
    out_mean_ptr,
    out_variance_ptr,
    running_mean_ptr,
    running_variance_ptr,
    momentum,
    M,
    C,
    P,
    SHARE,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Store mean and biased variance [C] of all M rows, from those of P shares; move running statistics, if any.

    The running variance moves towards the unbiased one.
    """
    channels = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = channels < C
    mean = tl.zeros((BC,), tl.float32)
    for start in range(0, P, BM):
        shares = start + tl.arange(0, BM)
        mask = (shares < P)[:, None] & inside[None, :]
        counts = tl.maximum(tl.minimum(SHARE, M - shares * SHARE), 0).to(tl.float32)
        means = tl.load(mean_ptr + shares[:, None] * C + channels[None, :], mask=mask, other=0.0)
        mean += tl.sum(means * (counts / M)[:, None], 0)
    squares = tl.zeros((BC,), tl.float32)
    for start in range(0, P, BM):
        shares = start + tl.arange(0, BM)
        mask = (shares < P)[:, None] & inside[None, :]
        counts = tl.maximum(tl.minimum(SHARE, M - shares * SHARE), 0).to(tl.float32)
        place = shares[:, None] * C + channels[None, :]
        apart = tl.load(mean_ptr + place, mask=mask, other=0.0) - mean[None, :]
        within = tl.load(square_ptr + place, mask=mask, other=0.0)
        squares += tl.sum(tl.where(mask, within + counts[:, None] * apart * apart, 0.0), 0)
    tl.store(out_mean_ptr + channels, mean, mask=inside)
    tl.store(out_variance_ptr + channels, squares / M, mask=inside)
    if running_mean_ptr is not None:
        move(running_mean_ptr + channels, mean, momentum, inside)
        move(running_variance_ptr + channels, squares / tl.maximum(M - 1, 1), momentum, inside)


@triton.jit
def move(place, value, share, inside):
    """Move what is stored towards a value by a share of the way."""
    before = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, (before + share * (value - before)).to(place.dtype.element_ty), mask=inside)


@triton.jit
def apply_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    variance_ptr,
    y_ptr,
    eps,
    M,
    C,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Store y [M, C] = (x - mean) rsqrt(variance + eps) weight + bias, plus the residual; with RELU at least 0."""
    channels, inside, place, mask = pixel_tile(M, C, BM, BC)
    mean, _, scale, bias = normaliser(mean_ptr, variance_ptr, weight_ptr, bias_ptr, channels, inside, eps)
    y = normalised(tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32) - mean, scale, bias)
    if residual_ptr is not None:
        y += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        y = tl.where(y < 0, 0.0, y)  # NaN stays NaN
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def sums_kernel(
    grad_ptr,
    other_ptr,
    x_ptr,
    y_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    variance_ptr,
    masked_ptr,
    sum_ptr,
    product_ptr,
    eps,
    M,
    C,
    SHARE,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Store sums [P, C] over each share's rows of the gradient g before the rectifier, and of g times the normalised x.

    g is the gradient plus the other branch's, if there is one, 0 where y is 0. With y it is stored in masked [M, C].
    """
    share, channels, inside = channel_tile(tl.program_id(0), C, BC)
    mean, rstd, scale, bias = normaliser(mean_ptr, variance_ptr, weight_ptr, bias_ptr, channels, inside, eps)
    total = tl.zeros((BM, BC), tl.float32)
    products = tl.zeros((BM, BC), tl.float32)
    first = share * SHARE
    last = tl.minimum(first + SHARE, M)
    for start in range(first, last, BM):
        rows = start + tl.arange(0, BM)
        mask = (rows < last)[:, None] & inside[None, :]
        place = rows[:, None].to(tl.int64) * C + channels[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32) - mean
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        if other_ptr is not None:
            grad += tl.load(other_ptr + place, mask=mask, other=0.0).to(tl.float32)
        if y_ptr is not None:
            grad = tl.where(tl.load(y_ptr + place, mask=mask, other=0.0) > 0, grad, 0.0)
            stored = grad.to(masked_ptr.dtype.element_ty)
            tl.store(masked_ptr + place, stored, mask=mask)
            grad = stored.to(tl.float32)
        elif RELU:
            y = normalised(x, scale, bias).to(x_ptr.dtype.element_ty)  # rounded as it was stored
            grad = tl.where(y > 0, grad, 0.0)
        total += grad
        products += tl.where(mask, grad * x, 0.0)
    out = share * C + channels
    tl.store(sum_ptr + out, tl.sum(total, 0), mask=inside)
    tl.store(product_ptr + out, tl.sum(products, 0) * tl.reshape(rstd, (BC,)), mask=inside)


@triton.jit
def total_kernel(sum_ptr, product_ptr, out_sum_ptr, out_product_ptr, C, P, BM: tl.constexpr, BC: tl.constexpr):
    """Store the sums [C] over P shares of both results of sums_kernel."""
    channels = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = channels < C
    total = tl.zeros((BM, BC), tl.float32)
    products = tl.zeros((BM, BC), tl.float32)
    for start in range(0, P, BM):
        shares = start + tl.arange(0, BM)
        mask = (shares < P)[:, None] & inside[None, :]
        place = shares[:, None] * C + channels[None, :]
        total += tl.load(sum_ptr + place, mask=mask, other=0.0)
        products += tl.load(product_ptr + place, mask=mask, other=0.0)
    tl.store(out_sum_ptr + channels, tl.sum(total, 0), mask=inside)
    tl.store(out_product_ptr + channels, tl.sum(products, 0), mask=inside)


@triton.jit
def gradient_kernel(
    grad_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    variance_ptr,
    sum_ptr,
    product_ptr,
    dx_ptr,
    eps,
    M,
    C,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Store dx [M, C] = weight rstd (g - sum(g) / M - n sum(g n) / M), n the normalised x; RELU: g has no mask yet."""
    channels, inside, place, mask = pixel_tile(M, C, BM, BC)
    mean, rstd, scale, bias = normaliser(mean_ptr, variance_ptr, weight_ptr, bias_ptr, channels, inside, eps)
    level = tl.load(sum_ptr + channels, mask=inside, other=0.0)[None, :] / M
    slope = tl.load(product_ptr + channels, mask=inside, other=0.0)[None, :] / M * rstd
    grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32) - mean
    if RELU:
        grad = tl.where(normalised(x, scale, bias).to(x_ptr.dtype.element_ty) > 0, grad, 0.0)
    dx = scale * (grad - level - x * slope)
    tl.store(dx_ptr + place, dx.to(dx_ptr.dtype.element_ty), mask=mask)
