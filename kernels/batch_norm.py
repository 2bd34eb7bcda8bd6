"""Batch norm, addition and rectifier over pixels, forward and backward: moments, then one pass that adds and rectifies.

Legend: M pixels (batch x height x width) of C channels, [M, C] contiguous, as in channels_last memory; P shares of the
rows. A program takes one share and BC channels, BM rows at a time. The shares' results are stored and merged in a fixed
order, never by atomics, so every run gives bitwise equal results.
"""

import triton
import triton.language as tl


@triton.jit
def normaliser(mean_ptr, variance_ptr, channels, inside, eps):
    """Return the means and the reciprocal standard deviations of channels."""
    rstd = 1.0 / tl.sqrt(tl.load(variance_ptr + channels, mask=inside, other=1.0) + eps)
    return tl.load(mean_ptr + channels, mask=inside, other=0.0), rstd


@triton.jit
def pixel_tile(M, C, BM: tl.constexpr, BC: tl.constexpr):
    """Return a program's channels with a mask of those that exist, and its pixels' offsets with such a mask."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    channels = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = channels < C
    return channels, inside, rows[:, None].to(tl.int64) * C + channels[None, :], (rows < M)[:, None] & inside[None, :]


@triton.jit
def moments_kernel(x_ptr, mean_ptr, square_ptr, M, C, SHARE, BM: tl.constexpr, BC: tl.constexpr):
    """Store means [P, C] of each share of SHARE rows, and sums of squares about them; sums start at its first row."""
    share = tl.program_id(0)
    channels = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = channels < C
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
    mean_ptr, square_ptr, out_mean_ptr, out_variance_ptr, M, C, P, SHARE, BM: tl.constexpr, BC: tl.constexpr
):
    """Store mean and biased variance [C] of all M rows, from those of P shares."""
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
    mean, rstd = normaliser(mean_ptr, variance_ptr, channels, inside, eps)
    scale = tl.load(weight_ptr + channels, mask=inside, other=0.0) * rstd
    bias = tl.load(bias_ptr + channels, mask=inside, other=0.0)
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    y = (x - mean[None, :]) * scale[None, :] + bias[None, :]
    if residual_ptr is not None:
        y += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        y = tl.where(y < 0, 0.0, y)  # NaN stays NaN
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def arriving(grad_ptr, y_ptr, place, mask, RELU: tl.constexpr):
    """Return the gradient before the rectifier, float32: 0 where y is 0."""
    grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        grad = tl.where(tl.load(y_ptr + place, mask=mask, other=0.0) > 0, grad, 0.0)
    return grad


@triton.jit
def sums_kernel(
    grad_ptr,
    x_ptr,
    y_ptr,
    mean_ptr,
    variance_ptr,
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
    """Store sums [P, C] over each share's rows of the arriving gradient g, and of g times the normalised x."""
    share = tl.program_id(0)
    channels = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = channels < C
    mean, rstd = normaliser(mean_ptr, variance_ptr, channels, inside, eps)
    total = tl.zeros((BM, BC), tl.float32)
    products = tl.zeros((BM, BC), tl.float32)
    first = share * SHARE
    last = tl.minimum(first + SHARE, M)
    for start in range(first, last, BM):
        rows = start + tl.arange(0, BM)
        mask = (rows < last)[:, None] & inside[None, :]
        place = rows[:, None].to(tl.int64) * C + channels[None, :]
        grad = arriving(grad_ptr, y_ptr, place, mask, RELU)
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        total += grad
        products += grad * (x - mean[None, :])
    out = share * C + channels
    tl.store(sum_ptr + out, tl.sum(total, 0), mask=inside)
    tl.store(product_ptr + out, tl.sum(products, 0) * rstd, mask=inside)


@triton.jit
def gradient_kernel(
    grad_ptr,
    x_ptr,
    y_ptr,
    weight_ptr,
    mean_ptr,
    variance_ptr,
    sum_ptr,
    product_ptr,
    dx_ptr,
    dresidual_ptr,
    eps,
    M,
    C,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Store dx [M, C] = weight rstd (g - sum(g) / M - n sum(g n) / M), n the normalised x; the residual's is g."""
    channels, inside, place, mask = pixel_tile(M, C, BM, BC)
    mean, rstd = normaliser(mean_ptr, variance_ptr, channels, inside, eps)
    scale = tl.load(weight_ptr + channels, mask=inside, other=0.0) * rstd
    level = tl.load(sum_ptr + channels, mask=inside, other=0.0) / M
    slope = tl.load(product_ptr + channels, mask=inside, other=0.0) / M * rstd
    grad = arriving(grad_ptr, y_ptr, place, mask, RELU)
    if dresidual_ptr is not None:
        tl.store(dresidual_ptr + place, grad.to(dresidual_ptr.dtype.element_ty), mask=mask)
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    dx = scale[None, :] * (grad - level[None, :] - (x - mean[None, :]) * slope[None, :])
    tl.store(dx_ptr + place, dx.to(dx_ptr.dtype.element_ty), mask=mask)
