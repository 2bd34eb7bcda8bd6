"""Cross entropy of a (scaled) linear head that never holds its [N, C] logits."""

import torch
from torch import Tensor

from . import backend, reference
from .checks import accumulator, check_labels, check_product, check_vector, product_dtype
from .linear import gradient_shapes, line

_Vector = Tensor | None


@torch.library.custom_op("fastlt::cross_entropy", mutates_args=())
def _cross_entropy(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    row_weights: Tensor,
    scale: _Vector,
    shift: _Vector,
    class_weights: _Vector,
    label_smoothing: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row losses, and the gradients of their sum that `needs` asks for: features, weight, scale, shift."""
    return reference.cross_entropy(
        features, weight, labels, row_weights, scale, shift, class_weights, label_smoothing, needs
    )


@_cross_entropy.register_fake
def _(features, weight, labels, row_weights, scale, shift, class_weights, label_smoothing, needs):  # type: ignore[no-untyped-def]
    return features.new_empty(features.shape[0], dtype=accumulator(features.dtype)), *gradient_shapes(
        features, weight, needs
    )


if backend.HAS_TRITON:

    @_cross_entropy.register_kernel("cuda")
    def _(features, *args):  # type: ignore[no-untyped-def]
        if features.dtype is torch.float64:
            return reference.cross_entropy(features, *args)
        return backend.kernels().cross_entropy(features, *args)


class _LinearCrossEntropy(torch.autograd.Function):
    """The op's gradients: computed with the loss when its rows are summed, else in a second pass over the product.

    A sum's gradients are known up to one factor when the product is at hand, so three products do the work of four.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, features, weight, scale, shift, labels, row_weights, class_weights, label_smoothing, summed
    ):
        ctx.needs = list(ctx.needs_input_grad[:4])
        ctx.summed, ctx.label_smoothing = summed, label_smoothing
        args = features, weight, labels, row_weights, scale, shift, class_weights
        losses, *gradients = _cross_entropy(*args, label_smoothing, ctx.needs if summed else [False] * 4)
        ctx.save_for_backward(*(gradients if summed else args))
        return losses.sum() if summed else losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        if ctx.summed:
            # Rounded to each gradient's own type first: a float32 factor would promote a half-type gradient.
            gradients = [g * grad.to(g.dtype) for g in ctx.saved_tensors]
        else:
            features, weight, labels, row_weights, *rest = ctx.saved_tensors
            args = features, weight, labels, row_weights * grad, *rest
            _, *gradients = _cross_entropy(*args, ctx.label_smoothing, ctx.needs)
        return *(g if need else None for g, need in zip(gradients, ctx.needs, strict=True)), *[None] * 5


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
    """`F.cross_entropy((features @ weight.T + bias) * scale + offset, labels, ...)` in chunks that stay in cache.

    Computes the gradients of those arguments only that require one: scale for learnable weight scaling, weight and bias
    for classifier retraining, features too for joint training, offset if it is learned. First order only. Memory beyond
    inputs and gradients is one chunk of rows, never [N, C].

    Args:
        features: [N, D], any strides, float32, bfloat16, float16 or float64; cast as F.linear's under autocast.
        weight: [C, D] on the same device; where the types differ both are cast to the common one.
        labels: integers [N] in 0..C-1, or ignore_index.
        scale: [C] or None.
        bias: [C], inside the scale, or None.
        offset: [C], outside it, e.g. log class counts for balanced softmax, or None.
        class_weights: [C], not differentiable, or None.
        label_smoothing: share of the target spread over all classes, in [0, 1].
        ignore_index: label of rows that count for nothing.
        reduction: "mean" (over the weights of the rows that count, as F.cross_entropy), "sum" or "none".

    Returns:
        The loss in float32 (float64 for float64): a scalar, or [N] for "none".

    Raises:
        ValueError: if a shape, type or device does not fit or an option is unknown; on the CPU outside torch.compile
            also for a label out of range, a weight or a vector that is not finite. Elsewhere reading them would make
            every step wait for the device: there a label out of range gives that row the loss NaN.
    """
    classes = weight.shape[0] if weight.dim() else 0
    check_product(features, weight, wait=False)
    check_labels(labels, features, classes, ignore_index=ignore_index, wait=False)
    for name, vector in (("scale", scale), ("bias", bias), ("offset", offset), ("class_weights", class_weights)):
        check_vector(name, vector, classes, features)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1]; got {label_smoothing}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none"; got {reduction!r}')
    dtype = product_dtype(features, weight)
    if class_weights is not None:
        class_weights = class_weights.detach().to(accumulator(dtype)).contiguous()
    row_weights = _row_weights(labels, classes, ignore_index, class_weights, reduction, accumulator(dtype))
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        features.to(dtype),
        weight.to(dtype),
        *line(dtype, scale, bias, offset),
        labels,
        row_weights,
        class_weights,
        float(label_smoothing),
        reduction != "none",
    )
    # The mean over no rows is NaN, as in F.cross_entropy; the sum that stands for it would be 0.
    return loss + float("nan") if reduction == "mean" and not len(labels) else loss


def _row_weights(
    labels: Tensor, classes: int, ignore_index: int, class_weights: Tensor | None, reduction: str, dtype: torch.dtype
) -> Tensor:
    """Each row's factor, [N]: 0 if ignored, NaN for a label out of range, else 1 (a mean: over the weights' sum)."""
    kept = labels != ignore_index
    rows = kept.to(dtype)
    if reduction == "mean":
        share = rows if class_weights is None else rows * class_weights[labels.long().clamp(0, classes - 1)]
        rows = rows / share.sum()
    return rows.masked_fill(kept & ((labels < 0) | (labels >= classes)), float("nan"))
