"""Cross entropy of (scaled) linear heads that keeps few logits, and of heads that rescale stored logits."""

from typing import Any

import torch
from torch import Tensor

from ..config import check_choice, check_range
from . import backend
from . import reference_cross_entropy as reference
from .checks import accumulator, check_labels, check_product, check_vectors, product_dtype

KEPT_BYTES = 1 << 28  # of logits that may be kept for the gradients; more are computed again, chunk by chunk

_cross_entropy = torch.library.custom_op("fastlt::cross_entropy", reference.cross_entropy, mutates_args=())
_cross_entropy_backward = torch.library.custom_op(
    "fastlt::cross_entropy_backward", reference.cross_entropy_backward, mutates_args=()
)
backend.register_kernel(_cross_entropy, "cross_entropy", "cross_entropy", reference)
backend.register_kernel(_cross_entropy_backward, "cross_entropy", "cross_entropy_backward", reference)


@_cross_entropy.register_fake
def _(features, weight, labels, scale, bias, offset, class_weights, label_smoothing, ignore_index, mean, width):  # type: ignore[no-untyped-def]
    (num, _), (heads, _, _), dtype = features.shape, weight.shape, accumulator(features.dtype)
    losses, lse, weights = (features.new_empty(rows, num, dtype=dtype) for rows in (heads, heads, 3))
    return losses, lse, weights, features.new_empty((num, heads, width) if width else 0, dtype=dtype)


@_cross_entropy_backward.register_fake
def _(grad, features, weight, labels, scale, bias, offset, class_weights, lse, row_weights, z, smooth, needs):  # type: ignore[no-untyped-def]
    need_x, need_w, *need_vectors = needs
    dx = features.new_empty(features.shape if need_x else 0)
    dw = weight.new_empty(weight.shape if need_w else 0)
    return dx, dw, *(lse.new_empty(weight.shape[:2] if need else 0) for need in need_vectors)


class _Operations:
    """The operations as PyTorch's dispatcher knows them, which torch.compile needs."""

    cross_entropy, cross_entropy_backward = _cross_entropy, _cross_entropy_backward


class _HeadsCrossEntropy(torch.autograd.Function):
    """Losses [K, N] of K heads, with gradients for features, weight, scale, bias and offset.

    Of the forward pass the logits are kept, where they are few; gradients are made in the backward pass, by weights of
    rows that hold the gradient that arrives, so that nothing as large as the weights is multiplied afterwards.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, bodies, features, weight, scale, bias, offset, labels, class_weights, label_smoothing, ignore_index, mean
    ):
        args = features, weight, labels, scale, bias, offset, class_weights
        width = _kept_width(features, weight) if any(ctx.needs_input_grad) else 0
        losses, *kept = bodies.cross_entropy(*args, label_smoothing, ignore_index, mean, width)
        ctx.bodies, ctx.needs, ctx.smooth = bodies, list(ctx.needs_input_grad[1:6]), label_smoothing > 0
        ctx.save_for_backward(*args, *kept)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        args = *ctx.saved_tensors, ctx.smooth, ctx.needs
        dx, dw, ds, dbias, doffset = ctx.bodies.cross_entropy_backward(grad, *args)
        gradients = dx, dw, ds, dbias, doffset.sum(0) if ctx.needs[4] and len(doffset) > 1 else doffset.flatten()
        return None, *(g if need else None for g, need in zip(gradients, ctx.needs, strict=True)), *[None] * 5


class _RescaledCrossEntropy(torch.autograd.Function):
    """Losses [K, B] of stored logits under scales [K, C], with a gradient for the scales."""

    @staticmethod
    def forward(ctx, bodies, scale, logits, labels, rows):  # type: ignore[no-untyped-def]
        ctx.bodies = bodies
        losses, *kept = bodies.rescaled_cross_entropy(logits, scale, labels, rows)
        ctx.save_for_backward(logits, scale, labels, rows, *kept)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return None, ctx.bodies.rescaled_cross_entropy_backward(grad, *ctx.saved_tensors), None, None, None


def _kept_width(features: Tensor, weight: Tensor) -> int:
    """Return the columns of the logits to be kept for the gradients, or 0 if they are too large."""
    heads, classes, _ = weight.shape
    width = backend.row_width(features, classes)
    size = len(features) * heads * width * accumulator(features.dtype).itemsize
    return width if size <= KEPT_BYTES else 0


def heads_cross_entropy(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean losses [K] of K heads side by side, as `scaled_cross_entropy` would one by one.

    It is a training's own: nothing is checked, so that weights that are no longer finite give NaN, as does a label out
    of range, and the functions are called without PyTorch's dispatcher, whose cost shows in small steps.

    Args:
        features: [N, D].
        weight: [K, C, D].
        labels: Integers [N].
        scale: [K, C], or None for 1.
        bias: [K, C], inside the scale, or None.
        offset: [C], outside the scale, or None.
        label_smoothing: Share of the target that is spread over all classes.
    """
    bodies = backend.bodies(features, "cross_entropy", reference)
    return _losses(bodies, features, weight, labels, scale, bias, offset, None, label_smoothing, -100, True).sum(1)


def rescaled_cross_entropy(logits: Tensor, scale: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the mean cross entropy of stored logits under K rescalings of their classes, [K].

    It is learnable weight scaling (Kang et al., 2020, section 4.3) on logits that never change, which no product has to
    make again: `F.cross_entropy(logits[rows] * scale[k], labels)` for each k, with a gradient for the scales alone.
    Nothing is checked, as in `heads_cross_entropy`.

    Args:
        logits: [N, C or more], rows contiguous; columns past C count for nothing, and a width that 16 divides is
            fastest on a GPU. They are float32, bfloat16, float16 or float64.
        scale: [K, C], float32; float64 for float64 logits.
        labels: Integers [B].
        rows: Integers [B], each sample's row; None: sample i is row i, and B is N.
    """
    bodies = backend.bodies(logits, "cross_entropy", reference)
    places = labels.contiguous(), None if rows is None else rows.contiguous()
    losses: Tensor = _RescaledCrossEntropy.apply(bodies, scale.contiguous(), logits.detach(), *places)  # type: ignore[no-untyped-call]
    return losses.sum(1)


def _losses(
    bodies: Any,
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    offset: Tensor | None,
    class_weights: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    mean: bool,
) -> Tensor:
    """Return the losses [K, N] of K heads, in the accumulator's type, by the functions of `bodies`."""
    dtype = product_dtype(features, weight)
    wide = (None if v is None else v.to(accumulator(dtype)).contiguous() for v in (scale, bias, offset))
    if class_weights is not None:
        class_weights = class_weights.detach().to(accumulator(dtype)).contiguous()
    args = labels.contiguous(), class_weights, float(label_smoothing), ignore_index, mean
    losses: Tensor = _HeadsCrossEntropy.apply(bodies, features.to(dtype), weight.to(dtype), *wide, *args)  # type: ignore[no-untyped-call]
    return losses


def scaled_cross_entropy(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return `F.cross_entropy((features @ weight.T + bias) * scale + offset, labels, ...)`, with logits in float32.

    Only the gradients of arguments that require one are computed: of scale for learnable weight scaling, of weight and
    bias for classifier retraining, of features too for joint training, of offset if it is learned. Differentiable once.
    Logits of up to 256 MB are kept for the gradients, and on a GPU their gradient in the type of features beside them;
    beyond that, and for a loss alone, memory is one chunk of rows, whose logits are computed again for the gradients.

    Args:
        features: [N, D], any strides, float32, bfloat16, float16 or float64; cast as in F.linear under autocast.
        weight: [C, D] on the same device; where the types differ both are cast to the common one.
        labels: Integers [N] in 0..C-1, or ignore_index.
        scale: [C], or None for 1.
        bias: [C], inside the scale, or None.
        offset: [C], outside the scale, as log class counts for balanced softmax, or None.
        class_weights: [C], not differentiable, or None.
        label_smoothing: Share of the target that is spread over all classes, in [0, 1].
        ignore_index: Label of rows that count for nothing.
        reduction: "mean" (over the weights of the rows that count, as F.cross_entropy), "sum" or "none".

    Returns:
        The loss in float32 (float64 for float64): a scalar, or [N] for "none".

    Raises:
        ValueError: A shape, type or device does not fit, or an option is unknown; on the CPU outside torch.compile
            also if a label is out of range, or weight or a vector is not finite. Elsewhere every step would have to
            wait for the device: there a label out of range gives that row the loss NaN.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> scale = torch.ones(2, requires_grad=True)
        >>> loss = ops.scaled_cross_entropy(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), scale=scale)
        >>> round(loss.item(), 4)
        0.3133
        >>> loss.backward()
        >>> scale.grad
        tensor([-0.1345, -0.1345])
    """
    classes = weight.shape[0] if weight.dim() else 0
    check_product(features, weight, wait=False)
    check_labels(labels, features, classes, ignore_index=ignore_index, wait=False)
    vectors = {"scale": scale, "bias": bias, "offset": offset, "class_weights": class_weights}
    check_vectors(features, classes, wait=False, **vectors)
    check_range("label_smoothing", label_smoothing, low=0, high=1)
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    scale, bias = (None if vector is None else vector[None] for vector in (scale, bias))
    of_classes = scale, bias, offset, class_weights
    losses = _losses(
        _Operations, features, weight[None], labels, *of_classes, label_smoothing, ignore_index, reduction == "mean"
    )[0]
    if reduction == "none":
        return losses
    # The mean over no rows is NaN, as in F.cross_entropy; the sum that stands for it would be 0.
    return losses.sum() + float("nan") if reduction == "mean" and not len(labels) else losses.sum()
