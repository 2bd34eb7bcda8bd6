"""The rank of each sample's label among all classes, without the logits."""

import torch
from torch import Tensor

from . import backend, reference
from .checks import check_labels, check_product, check_vectors, product_dtype
from .linear import line

_label_rank = torch.library.custom_op("fastlt::label_rank", reference.label_rank, mutates_args=())
backend.register_kernel(_label_rank, "linear", "label_rank")


@_label_rank.register_fake
def _(features, weight, labels, scale, shift):  # type: ignore[no-untyped-def]
    return labels.new_empty(labels.shape[0], dtype=torch.int32)


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
    """Return how many classes come before the label: #{j: l_j > l_y} + #{j < y: l_j = l_y}, l as in `scaled_logits`.

    Rank 0 means that argmax picks the label, a rank below k that the label is among the top k. Logits are compared in
    the type of the product's sums, float32 or float64, never rounded to a half type. A NaN logit comes before every
    number, as in argmax.

    Args:
        features: [N, D].
        weight: [C, D].
        labels: Integers [N] in 0..C-1.
        scale: [C], or None for 1.
        bias: [C], inside the scale, or None.
        offset: [C], outside the scale, or None.

    Returns:
        int32 [N].

    Raises:
        ValueError: A shape, type or device does not fit, a label is out of range, or weight or a vector is not finite.
            Values are read on every device, one synchronisation a call, but not inside torch.compile.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> weight = torch.tensor([[1.0], [3.0], [2.0]])
        >>> ops.label_rank(torch.tensor([[1.0]]), weight, torch.tensor([0]))
        tensor([2], dtype=torch.int32)
    """
    check_product(features, weight, wait=True)
    check_labels(labels, features, weight.shape[0], wait=True)
    check_vectors(features, weight.shape[0], wait=True, scale=scale, bias=bias, offset=offset)
    dtype = product_dtype(features, weight)
    rank: Tensor = _label_rank(features.to(dtype), weight.to(dtype), labels, *line(dtype, scale, bias, offset))
    return rank
