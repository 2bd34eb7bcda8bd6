"""Grouped 3 x 3 convolutions as products of channel blocks: narrow groups, slow in vendors' kernels, are merged."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad as gradients

from . import backend

# Shapes: B images, H, W their size, C channels, G groups, K blocks of BC channels.

BLOCK = 64
"""Channels of a block, if there are that many: a tile of the tensor cores' products."""


def _as_convolution(weight: Tensor) -> Tensor:
    """Return weights [9, K, BC, BC] (in, out) as F.conv2d takes them for K groups: [C, BC, 3, 3]."""
    _, blocks, block, _ = weight.shape
    return weight.permute(1, 3, 2, 0).reshape(blocks * block, block, 3, 3)


def has_kernel(x: Tensor, block: int) -> bool:
    """Return whether the kernels support a type and a block width, a tile's side: a power of 2, at most `BLOCK`."""
    return x.dtype is not torch.float64 and block in (16, 32, BLOCK)


def plain_conv(x: Tensor, weight: Tensor, stride: int, transposed: bool, height: int, width: int) -> Tensor:
    """Convolve [B, H, W, C] with weights [9, K, BC, BC] to [B, height, width, C]; transposed: the input's gradient."""
    images, groups = x.permute(0, 3, 1, 2), weight.shape[1]
    if transposed:  # the caller has exchanged the weights' in and out
        kernel = _as_convolution(weight.transpose(2, 3))
        shape = x.shape[0], x.shape[3], height, width
        out: Tensor = gradients.conv2d_input(shape, kernel, images, stride, 1, 1, groups)  # type: ignore[no-untyped-call]
    else:
        out = F.conv2d(images, _as_convolution(weight), None, stride, 1, 1, groups)
    return out.permute(0, 2, 3, 1).contiguous()


def plain_conv_weight(x: Tensor, grad: Tensor, stride: int, block: int) -> Tensor:
    """Return the gradient of the weights [9, K, BC, BC], float32 (float64 for float64)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    images, arriving = (tensor.permute(0, 3, 1, 2).to(wide) for tensor in (x, grad))
    blocks = x.shape[3] // block
    shape = x.shape[3], block, 3, 3
    out: Tensor = gradients.conv2d_weight(images, shape, arriving, stride, 1, 1, blocks)  # type: ignore[no-untyped-call]
    return out.view(blocks, block, block, 9).permute(3, 0, 2, 1).contiguous()


_grouped_conv = torch.library.custom_op("fastlt::grouped_conv", plain_conv, mutates_args=())
_grouped_conv_weight = torch.library.custom_op("fastlt::grouped_conv_weight", plain_conv_weight, mutates_args=())


@_grouped_conv.register_fake
def _(x, weight, stride, transposed, height, width):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], height, width, x.shape[3]))


@_grouped_conv_weight.register_fake
def _(x, grad, stride, block):  # type: ignore[no-untyped-def]
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty((9, x.shape[3] // block, block, block), dtype=wide)


if backend.HAS_TRITON:

    @_grouped_conv.register_kernel("cuda")
    def _(x, weight, *args):  # type: ignore[no-untyped-def]
        convolve = backend.kernels("convolution").grouped_conv if has_kernel(x, weight.shape[-1]) else plain_conv
        return convolve(x, weight, *args)

    @_grouped_conv_weight.register_kernel("cuda")
    def _(x, grad, stride, block):  # type: ignore[no-untyped-def]
        convolve = backend.kernels("convolution").grouped_conv_weight if has_kernel(x, block) else plain_conv_weight
        return convolve(x, grad, stride, block)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, weight, ctx.stride, ctx.transposed, _, _ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, weight = ctx.saved_tensors
    grad = grad.contiguous()
    dx = dw = None
    if ctx.needs_input_grad[0]:
        turned = weight.transpose(2, 3).contiguous()
        dx = _grouped_conv(grad, turned, ctx.stride, True, x.shape[1], x.shape[2])
    if ctx.needs_input_grad[1]:
        dw = _grouped_conv_weight(x, grad, ctx.stride, weight.shape[-1]).to(weight.dtype)
    return dx, dw, None, None, None, None


_grouped_conv.register_autograd(_backward, setup_context=_save)


def blocks_of(weight: Tensor, groups: int, block: int) -> Tensor:
    """Return weights of groups as weights of blocks, with zeros between channels of different groups.

    Args:
        weight: Weights of a grouped convolution, [C, C / G, 3, 3].
        groups: G.
        block: BC, a multiple of C / G that divides C.

    Returns:
        [9, C / BC, BC, BC] (tap, block, in, out).
    """
    channels, width = weight.shape[:2]
    per_block = block // width
    parts = weight.view(channels // block, per_block, width, width, 9)  # block, group, out, in, tap
    same_group = torch.eye(per_block, dtype=weight.dtype, device=weight.device)
    # block, group in, in, group out, out, tap
    spread = parts.permute(0, 1, 3, 2, 4)[:, :, :, None] * same_group[None, :, None, :, None, None]
    return spread.reshape(channels // block, block, block, 9).permute(3, 0, 1, 2).contiguous()


def grouped_conv(images: Tensor, weight: Tensor, *, groups: int, stride: int = 1) -> Tensor:
    """Convolve in groups, 3 x 3 with padding 1, as many channels out as in, without a bias.

    Args:
        images: [B, C, H, W] in channels_last memory (other layouts are copied), of a floating-point type.
        weight: [C, C / G, 3, 3] in the type of the images.
        groups: G.
        stride: 1 or 2.

    Returns:
        [B, C, ceil(H / stride), ceil(W / stride)] in channels_last memory.

    Raises:
        ValueError: A shape does not fit, or the stride is not 1 or 2.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> ops.grouped_conv(torch.ones(1, 4, 3, 3), torch.ones(4, 2, 3, 3), groups=2, stride=2)[0, 0]
        tensor([[8., 8.],
                [8., 8.]])
    """
    channels = images.shape[1] if images.dim() == 4 else 0
    if images.dim() != 4 or groups < 1 or tuple(weight.shape) != (channels, channels // groups, 3, 3):
        raise ValueError(
            f"images, weight: got shapes {list(images.shape)} and {list(weight.shape)}; expected [B, C, H, W] and "
            f"[C, C / {groups}, 3, 3]"
        )
    if stride not in (1, 2):
        raise ValueError(f"stride: got {stride}; expected 1 or 2")
    block = BLOCK if channels % BLOCK == 0 and BLOCK % (channels // groups) == 0 else channels
    height, width = (-(-size // stride) for size in images.shape[2:])
    pixels = images.permute(0, 2, 3, 1).contiguous()
    out = _grouped_conv(pixels, blocks_of(weight, groups, block), stride, False, height, width)
    result: Tensor = out.permute(0, 3, 1, 2)
    return result
