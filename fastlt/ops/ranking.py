"""The rank of each sample's label among all classes, without the logits."""

import torch
from torch import Tensor

from . import backend, reference
from .checks import check_labels, check_product, check_vector, product_dtype
from .linear import line

_Vector = Tensor | None


@torch.library.custom_op("fastlt::label_rank", mutates_args=())
def _label_rank(features: Tensor, weight: Tensor, labels: Tensor, scale: _Vector, shift: _Vector) -> Tensor:
    return reference.label_rank(features, weight, labels, scale, shift)


@_label_rank.register_fake
def _(features, weight, labels, scale, shift):  # type: ignore[no-untyped-def]
    return labels.new_empty(labels.shape[0], dtype=torch.int32)


if backend.HAS_TRITON:

    @_label_rank.register_kernel("cuda")
    def _(features, weight, labels, scale, shift):  # type: ignore[no-untyped-def]
        if features.dtype is torch.float64:
            return reference.label_rank(features, weight, labels, scale, shift)
        return backend.kernels().label_rank(features, weight, labels, scale, shift)


@torch.no_grad()
def label_rank(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """How many classes come before the label: #{j: l_j > l_y} + #{j < y: l_j = l_y}, l as in `scaled_logits`.

    0 means that argmax picks the label, less than k that it is among the top k. Logits are compared in float32 as the
    product's accumulator has them, never rounded to a half type. A NaN logit comes before every number, as in argmax.

    Args:
        features: [N, D].
        weight: [C, D].
        labels: integers [N] in 0..C-1.
        scale: [C] or None.
        bias: [C] or None.
        offset: [C] or None.

    Returns:
        int32 [N].

    Raises:
        ValueError: if a shape, type or device does not fit, a label is out of range, weight or a vector is not finite
            (read on every device: one synchronisation; not inside torch.compile).
    """
    check_product(features, weight, wait=True)
    check_labels(labels, features, weight.shape[0], wait=True)
    for name, vector in (("scale", scale), ("bias", bias), ("offset", offset)):
        check_vector(name, vector, weight.shape[0], features, wait=True)
    dtype = product_dtype(features, weight)
    rank: Tensor = _label_rank(features.to(dtype), weight.to(dtype), labels, *line(dtype, scale, bias, offset))
    return rank
