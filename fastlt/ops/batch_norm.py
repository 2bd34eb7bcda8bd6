"""Batch norm with the addition and the rectifier that follow it, in as few passes over memory as there can be."""

import torch
from torch import Tensor

from . import backend, reference
from .checks import accumulator

# Shapes: M pixels (batch x height x width), C channels.

_Pixels = Tensor | None


@torch.library.custom_op("fastlt::batch_norm_relu", mutates_args=())
def _batch_norm_relu(
    x: Tensor, residual: _Pixels, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [M, C], mean [C] and biased variance [C] of pixels [M, C]."""
    return reference.batch_norm_relu(x, residual, weight, bias, eps, relu)


@torch.library.custom_op("fastlt::batch_norm_relu_backward", mutates_args=())
def _batch_norm_relu_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    relu: bool,
    with_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x [M, C], of the residual ([0] without one), of weight [C] and of bias [C]."""
    return reference.batch_norm_relu_backward(grad, x, y, weight, mean, variance, eps, relu, with_residual)


@_batch_norm_relu.register_fake
def _(x, residual, weight, bias, eps, relu):  # type: ignore[no-untyped-def]
    vector = x.new_empty(x.shape[1], dtype=accumulator(x.dtype))
    return torch.empty_like(x), vector, torch.empty_like(vector)


@_batch_norm_relu_backward.register_fake
def _(grad, x, y, weight, mean, variance, eps, relu, with_residual):  # type: ignore[no-untyped-def]
    dresidual = torch.empty_like(x) if with_residual else x.new_empty(0)
    return torch.empty_like(x), dresidual, torch.empty_like(mean), torch.empty_like(mean)


if backend.HAS_TRITON:

    @_batch_norm_relu.register_kernel("cuda")
    def _(x, *args):  # type: ignore[no-untyped-def]
        bodies = reference if x.dtype is torch.float64 else backend.norm_kernels()
        return bodies.batch_norm_relu(x, *args)

    @_batch_norm_relu_backward.register_kernel("cuda")
    def _(grad, x, *args):  # type: ignore[no-untyped-def]
        bodies = reference if x.dtype is torch.float64 else backend.norm_kernels()
        return bodies.batch_norm_relu_backward(grad, x, *args)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, residual, weight, _, ctx.eps, ctx.relu = inputs
    ctx.with_residual = residual is not None
    # y is kept by the convolution that reads it anyway, and tells where the rectifier let pass
    ctx.save_for_backward(x, output[0], weight, output[1], output[2])
    ctx.mark_non_differentiable(output[1], output[2])


def _backward(ctx, grad, *_):  # type: ignore[no-untyped-def]
    dx, dresidual, dweight, dbias = _batch_norm_relu_backward(
        grad.contiguous(), *ctx.saved_tensors, ctx.eps, ctx.relu, ctx.with_residual
    )
    return dx, dresidual if ctx.with_residual else None, dweight, dbias, None, None


_batch_norm_relu.register_autograd(_backward, setup_context=_save)


def batch_norm_relu(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    residual: Tensor | None = None,
    relu: bool = True,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise a training batch by its own moments, add a residual, and set what is negative to 0.

    Ioffe and Szegedy (2015). The forward pass reads the images twice and writes once; the backward pass reads gradient,
    images and output twice and writes once (twice with a residual). Moments are float32 (float64 for float64).

    Args:
        images: [B, C, H, W] in channels_last memory (another is copied), float32, bfloat16, float16 or float64.
        weight: [C], float32 (float64 for float64).
        bias: [C], as `weight`.
        residual: [B, C, H, W], added before the rectifier; None for none.
        relu: Whether there is a rectifier.
        eps: Added to the variance.

    Returns:
        (the result [B, C, H, W] in channels_last memory, mean [C], biased variance [C]); the moments have no gradient.

    Raises:
        ValueError: Shapes do not fit.
    """
    if images.dim() != 4 or weight.shape != images.shape[1:2] or bias.shape != weight.shape:
        raise ValueError(
            f"images must have shape [B, C, H, W], weight and bias [C]; got {list(images.shape)}, {list(weight.shape)} "
            f"and {list(bias.shape)}"
        )
    if residual is not None and (residual.shape, residual.dtype) != (images.shape, images.dtype):
        raise ValueError(
            f"residual must be {images.dtype} {list(images.shape)}, as images; got {residual.dtype} "
            f"{list(residual.shape)}"
        )
    batch, channels, height, width = images.shape

    def pixels(tensor: Tensor) -> Tensor:
        return tensor.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()

    wide = accumulator(images.dtype)
    y, mean, variance = _batch_norm_relu(
        pixels(images),
        None if residual is None else pixels(residual),
        weight.to(wide),
        bias.to(wide),
        float(eps),
        relu,
    )
    return y.view(batch, height, width, channels).permute(0, 3, 1, 2), mean, variance
