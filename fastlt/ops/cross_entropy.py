"""Cross entropy of a (scaled) linear head that never holds its [N, C] logits."""

import torch
from torch import Tensor

from ..config import check_choice, check_range
from . import backend, reference
from .checks import accumulator, check_labels, check_product, check_vectors, product_dtype
from .linear import line

_cross_entropy = torch.library.custom_op("fastlt::cross_entropy", reference.cross_entropy, mutates_args=())
backend.register_kernel(_cross_entropy, "linear", "cross_entropy")


@_cross_entropy.register_fake
def _(features, weight, labels, row_weights, scale, shift, class_weights, label_smoothing, needs):  # type: ignore[no-untyped-def]
    losses = features.new_empty(features.shape[0], dtype=accumulator(features.dtype))
    return losses, *reference.finish(reference.new_gradients(features, weight, needs), weight)


class _LinearCrossEntropy(torch.autograd.Function):
    """The operation with gradients, which are computed with the loss if its rows are summed, else in a second pass.

    The gradients of a sum are known, up to one factor, while the product is at hand: three products instead of four.
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
    """Return `F.cross_entropy((features @ weight.T + bias) * scale + offset, labels, ...)`, in chunks of rows.

    Only the gradients of arguments that require one are computed: of scale for learnable weight scaling, of weight and
    bias for classifier retraining, of features too for joint training, of offset if it is learned. Differentiable once.
    Memory beyond inputs and gradients is one chunk of rows that stays in cache (16 MB of float32 logits on a GPU, 8 MB
    on a CPU), never [N, C].

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
    """Return each row's factor [N]: 0 if ignored, NaN for a label out of range, else 1; a mean's sum to 1, weighted."""
    kept = labels != ignore_index
    rows = kept.to(dtype)
    if reduction == "mean":
        share = rows if class_weights is None else rows * class_weights[labels.long().clamp(0, classes - 1)]
        rows = rows / share.sum()
    return rows.masked_fill(kept & ((labels < 0) | (labels >= classes)), float("nan"))
