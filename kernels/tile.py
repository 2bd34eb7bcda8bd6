"""The tile that all kernels of a linear head share: a block of X @ W.T in float32, its scores, its place in the grid.

Legend: M rows of X, C classes (rows of W), D their width; rm [BM] and rn [BN] are the row and class indices of a tile.
Offsets are int64, inner strides are 1. Rows past the end are read as row 0; the kernel that stores them masks them.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of(M, C, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """Return this program's (pm, pn): GROUP row tiles take turns on a column tile while it is in the L2 cache."""
    pid = tl.program_id(0)
    rows, columns = tl.cdiv(M, BM), tl.cdiv(C, BN)
    first = pid // (GROUP * columns) * GROUP
    size = tl.minimum(rows - first, GROUP)
    return first + pid % (GROUP * columns) % size, pid % (GROUP * columns) // size


@triton.jit
def dot_tile(
    x_ptr,
    w_ptr,
    rm,
    rn,
    M,
    C,
    D,
    x_stride,
    w_stride,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    NORMS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return X[rm] @ W[rn].T [BM, BN] in float32 and, if NORMS, ||W[rn]||^2 [BN] from the same pass; BK divides D."""
    rk = tl.arange(0, BK)
    x_block = x_ptr + tl.where(rm < M, rm, 0)[:, None].to(tl.int64) * x_stride + rk[None, :]
    w_block = w_ptr + tl.where(rn < C, rn, 0)[None, :].to(tl.int64) * w_stride + rk[:, None]
    z = tl.zeros((BM, BN), tl.float32)
    squares = tl.zeros((BN,), tl.float32)
    for _ in range(0, D, BK):
        x = tl.load(x_block)
        w = tl.load(w_block)
        z = tl.dot(x, w, z, input_precision=PRECISION)
        if NORMS:
            wide = w.to(tl.float32)
            squares += tl.sum(wide * wide, 0)
        x_block += BK
        w_block += BK
    return z, squares


@triton.jit
def dot_block(
    x,
    w,
    pm,
    pn,
    M,
    C,
    D,
    x_stride,
    w_stride,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    TMA: tl.constexpr,
):
    """Return the tile (pm, pn) of X @ W.T in float32; TMA: x and w are descriptors, whose copies need no registers."""
    if TMA:
        z = tl.zeros((BM, BN), tl.float32)
        for k in range(0, D, BK):
            z = tl.dot(x.load([pm * BM, k]), w.load([pn * BN, k]).T, z, input_precision=PRECISION)
    else:
        rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
        z, _ = dot_tile(x, w, rm, rn, M, C, D, x_stride, w_stride, BM, BN, BK, False, PRECISION)
    return z


@triton.jit
def halves(z):
    """Return the left and the right half of a tile's columns."""
    return tl.split(tl.permute(tl.reshape(z, (z.shape[0], 2, z.shape[1] // 2)), (0, 2, 1)))


@triton.jit
def class_vector(ptr, rn, C):
    """Return the entries rn of a float32 vector [C] as a row [1, BN]."""
    return tl.load(ptr + rn, mask=rn < C, other=0.0)[None, :]


@triton.jit
def score(z, scale_ptr, shift_ptr, rn, C):
    """Return z * scale + shift, each optional; always one fused operation, so that equal inputs give equal bits."""
    if scale_ptr is not None:
        scale = tl.broadcast_to(class_vector(scale_ptr, rn, C), z.shape)
        if shift_ptr is not None:
            z = tl.fma(z, scale, tl.broadcast_to(class_vector(shift_ptr, rn, C), z.shape))
        else:
            z *= scale
    elif shift_ptr is not None:
        z += class_vector(shift_ptr, rn, C)
    return z


@triton.jit
def log2(x, FAST: tl.constexpr):
    """Return the base-2 logarithm; FAST: by one instruction instead of about 35, which the interpreter lacks."""
    if FAST:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.log2(x)


@triton.jit
def reciprocal(x, FAST: tl.constexpr):
    """Return 1 / x; FAST: by one instruction."""
    if FAST:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return 1.0 / x
