"""Grouped 3 x 3 convolutions with padding 1 on channels_last images, their narrow groups merged to blocks of channels.

A block holds BC channels and, for each of 9 taps, the weights between them [BC, BC], zero between channels of different
groups, which tensor cores multiply at almost no cost. Legend: B images of H x W pixels and C channels in memory as
[B, H, W, C]; P output pixels of all images; K = C / BC blocks.
"""

import triton
import triton.language as tl


@triton.jit
def source_of(row, column, tap, STRIDE: tl.constexpr, TRANSPOSED: tl.constexpr, height, width):
    """Return the pixel of a height x width image that a tap reads for an output pixel, and whether there is one."""
    if TRANSPOSED:
        y, x = row + 1 - tap // 3, column + 1 - tap % 3
        inside = (y >= 0) & (x >= 0) & (y % STRIDE == 0) & (x % STRIDE == 0)
        y, x = y // STRIDE, x // STRIDE
    else:
        y, x = row * STRIDE + tap // 3 - 1, column * STRIDE + tap % 3 - 1
        inside = (y >= 0) & (x >= 0)
    return y, x, inside & (y < height) & (x < width)


@triton.jit
def convolve_kernel(
    x_ptr,
    w_ptr,
    out_ptr,
    P,
    C,
    in_height,
    in_width,
    out_height,
    out_width,
    STRIDE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store out [P, C] for BM pixels of one block: 9 products of [BM, BC] with weights [9, K, BC, BC] (in, out).

    TRANSPOSED: the gradient of the convolution's input, from that of its output.
    """
    pixels = tl.program_id(0) * BM + tl.arange(0, BM)
    block = tl.program_id(1)
    channels = tl.arange(0, BC)
    image = pixels // (out_height * out_width)
    row, column = pixels // out_width % out_height, pixels % out_width
    out = tl.zeros((BM, BC), tl.float32)
    for tap in range(0, 9):
        y, x, inside = source_of(row, column, tap, STRIDE, TRANSPOSED, in_height, in_width)
        inside &= pixels < P
        place = ((image * in_height + y) * in_width + x).to(tl.int64)
        place = tl.where(inside, place, 0)
        values = tl.load(x_ptr + place[:, None] * C + block * BC + channels[None, :], mask=inside[:, None], other=0.0)
        matrix = (tap * (C // BC) + block) * BC * BC
        weights = tl.load(w_ptr + matrix + channels[:, None] * BC + channels[None, :])
        out = tl.dot(values, weights, out, input_precision=PRECISION)
    place = out_ptr + pixels[:, None].to(tl.int64) * C + block * BC + channels[None, :]
    tl.store(place, out.to(out_ptr.dtype.element_ty), mask=(pixels < P)[:, None])


@triton.jit
def weight_kernel(
    x_ptr,
    grad_ptr,
    partial_ptr,
    P,
    C,
    in_height,
    in_width,
    out_height,
    out_width,
    SHARE,
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store x^T grad summed over a share of the P pixels, of one tap and block: partial [shares, 9, K, BC, BC]."""
    share, block, tap = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channels = tl.arange(0, BC)
    total = tl.zeros((BC, BC), tl.float32)
    last = tl.minimum((share + 1) * SHARE, P)
    for start in range(share * SHARE, last, BM):
        pixels = start + tl.arange(0, BM)
        image = pixels // (out_height * out_width)
        row, column = pixels // out_width % out_height, pixels % out_width
        y, x, inside = source_of(row, column, tap, STRIDE, False, in_height, in_width)
        inside &= pixels < last
        place = tl.where(inside, ((image * in_height + y) * in_width + x).to(tl.int64), 0)
        values = tl.load(x_ptr + place[None, :] * C + block * BC + channels[:, None], mask=inside[None, :], other=0.0)
        grad = tl.load(
            grad_ptr + pixels[:, None].to(tl.int64) * C + block * BC + channels[None, :],
            mask=(pixels < last)[:, None],
            other=0.0,
        )
        total = tl.dot(values, grad, total, input_precision=PRECISION)
    matrix = ((share * 9 + tap) * (C // BC) + block).to(tl.int64) * BC * BC
    tl.store(partial_ptr + matrix + channels[:, None] * BC + channels[None, :], total)
