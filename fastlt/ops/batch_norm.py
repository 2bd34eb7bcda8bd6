"""Batch norm with the addition and the rectifier that follow it, in as few passes over memory as possible."""

import torch
from torch import Tensor

from . import backend, reference
from .checks import accumulator, check_device

# Shapes: M pixels (batch x height x width), C channels.

_batch_norm_relu = torch.library.custom_op(
    "fastlt::batch_norm_relu", reference.batch_norm_relu, mutates_args=("running_mean", "running_variance")
)
_batch_norm_relu_backward = torch.library.custom_op(
    "fastlt::batch_norm_relu_backward", reference.batch_norm_relu_backward, mutates_args=()
)
backend.register_kernel(_batch_norm_relu, "batch_norm", "batch_norm_relu")
backend.register_kernel(_batch_norm_relu_backward, "batch_norm", "batch_norm_relu_backward")


@_batch_norm_relu.register_fake
def _(x, residual, weight, bias, running_mean, running_variance, momentum, eps, relu):  # type: ignore[no-untyped-def]
    vector = x.new_empty(x.shape[1], dtype=accumulator(x.dtype))
    return torch.empty_like(x), vector, torch.empty_like(vector)


@_batch_norm_relu_backward.register_fake
def _(grad, other, x, y, weight, bias, mean, variance, eps, relu):  # type: ignore[no-untyped-def]
    dresidual = x.new_empty(0) if y is None else torch.empty_like(x)
    return torch.empty_like(x), dresidual, torch.empty_like(mean), torch.empty_like(mean)


class _BatchNormReLU(torch.autograd.Function):
    """The operation with gradients; its result comes twice, so that two branches' gradients arrive apart."""

    @staticmethod
    def forward(ctx, x, residual, weight, bias, running_mean, running_variance, momentum, eps, relu):  # type: ignore[no-untyped-def]
        running = running_mean, running_variance, momentum
        y, mean, variance = _batch_norm_relu(x, residual, weight, bias, *running, eps, relu)
        ctx.eps, ctx.relu, ctx.with_residual = eps, relu, residual is not None
        # With a residual the next convolution keeps y anyway
        ctx.save_for_backward(x, y if relu and ctx.with_residual else None, weight, bias, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        return y, y.view_as(y) if ctx.with_residual else None, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, other, *_):  # type: ignore[no-untyped-def]
        grad, other = grad.contiguous(), None if other is None else other.contiguous()
        if ctx.with_residual and not ctx.relu:
            grad = dresidual = grad if other is None else grad + other
            dx, _, dweight, dbias = _batch_norm_relu_backward(grad, None, *ctx.saved_tensors, ctx.eps, False)
        else:
            dx, dresidual, dweight, dbias = _batch_norm_relu_backward(
                grad, other, *ctx.saved_tensors, ctx.eps, ctx.relu
            )
        return dx, dresidual if ctx.with_residual else None, dweight, dbias, *[None] * 5


def batch_norm_relu(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    residual: Tensor | None = None,
    running: tuple[Tensor, Tensor] | None = None,
    momentum: float = 0.1,
    relu: bool = True,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise a training batch by its own moments, add a residual, and set negative values to 0.

    Ioffe and Szegedy (2015). The forward pass reads the images twice and the residual once, and writes once. The
    backward pass reads gradient and images twice and writes once; after a residual it also reads the output and the
    second branch's gradient, and writes the residual's: five and eight passes. Moments are float32 (float64 for
    float64).

    Args:
        images: [B, C, H, W] in channels_last memory (other layouts are copied), float32, bfloat16, float16 or float64.
        weight: [C], float32 (float64 for float64).
        bias: [C], as `weight`.
        residual: [B, C, H, W], added before the rectifier, or None.
        running: Running mean [C] and variance [C], which are moved towards the batch's mean and unbiased variance, or
            None.
        momentum: The share of the way that they move.
        relu: Whether there is a rectifier.
        eps: Added to the variance.

    Returns:
        The result, [B, C, H, W] in channels_last memory; the same again, for the shortcut of a next block, so that the
        gradients of both branches are added in the backward pass's own reading; mean [C] and biased variance [C], which
        have no gradient.

    Raises:
        ValueError: A shape, type or device does not fit.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> images = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
        >>> out, _, mean, variance = ops.batch_norm_relu(images, torch.ones(1), torch.zeros(1))
        >>> out.flatten(), mean, variance
        (tensor([0.0000, 1.0000]), tensor([0.]), tensor([1.]))
    """
    if images.dim() != 4 or weight.shape != images.shape[1:2] or bias.shape != weight.shape:
        raise ValueError(
            f"images, weight, bias: got shapes {list(images.shape)}, {list(weight.shape)} and {list(bias.shape)}; "
            f"expected [B, C, H, W], [C] and [C]"
        )
    if residual is not None and (residual.shape, residual.dtype) != (images.shape, images.dtype):
        raise ValueError(
            f"residual: got {residual.dtype} {list(residual.shape)}; expected {images.dtype} {list(images.shape)}, "
            f"as images"
        )
    for name, vector in (("weight", weight), ("bias", bias), *(("running", vector) for vector in running or ())):
        check_device(name, vector, "images", images)
        if vector.shape != weight.shape or not vector.is_contiguous():
            raise ValueError(f"{name}: got shape {list(vector.shape)}; expected {list(weight.shape)}, contiguous")
    wide = accumulator(images.dtype)
    batch, channels, height, width = images.shape

    def pixels(tensor: Tensor) -> Tensor:
        return tensor.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()

    def squares(tensor: Tensor) -> Tensor:
        return tensor.view(batch, height, width, channels).permute(0, 3, 1, 2)

    y, again, mean, variance = _BatchNormReLU.apply(  # type: ignore[no-untyped-call]
        pixels(images),
        None if residual is None else pixels(residual),
        weight.to(wide),
        bias.to(wide),
        *(running or (None, None)),
        float(momentum),
        float(eps),
        relu,
    )
    out = squares(y)
    return out, out if again is None else squares(again), mean, variance
