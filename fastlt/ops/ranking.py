"""What a linear head says of each sample, without its logits: the rank of the label, the class it predicts."""

import torch
from torch import Tensor

from . import backend, reference
from .checks import check_labelled, check_unread, indices, product_dtype
from .linear import line

_label_rank = torch.library.custom_op("fastlt::label_rank", reference.label_rank, mutates_args=())
_predictions = torch.library.custom_op("fastlt::predictions", reference.predictions, mutates_args=())
backend.register_kernel(_label_rank, "linear", "label_rank")
backend.register_kernel(_predictions, "linear", "predictions")


@_label_rank.register_fake
def _(features, weight, labels, scale, shift):  # type: ignore[no-untyped-def]
    return labels.new_empty(labels.shape[0], dtype=torch.int32)


@_predictions.register_fake
def _(features, weight, labels, bias):  # type: ignore[no-untyped-def]
    of_class = features.new_empty(features.shape[0], dtype=torch.float64)
    return features.new_empty(features.shape[0], dtype=torch.int64), of_class, torch.empty_like(of_class)


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
    vectors = {"scale": scale, "bias": bias, "offset": offset}
    check_labelled(features, weight, labels, vectors)
    dtype = product_dtype(features, weight)
    factors = features.to(dtype), weight.to(dtype)
    rank: Tensor = _label_rank(*factors, indices(labels, len(weight)), *line(dtype, scale, bias, offset))
    check_unread(features, weight, labels, vectors)
    return rank


@torch.no_grad()
def predictions(
    features: Tensor, weight: Tensor, labels: Tensor, *, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the class that a linear head predicts for each sample, and how probable it and the label are.

    Logits are `features @ weight.T + bias` in the type of the product's sums, float32 or float64, never rounded to a
    half type; their log-softmax is taken in float64 on a CPU, and from float32 sums on a GPU.

    Args:
        features: [N, D].
        weight: [C, D].
        labels: Integers [N] in 0..C-1.
        bias: [C], or None.

    Returns:
        (classes, int64 [N]; their log probabilities, float64 [N]; the labels' log probabilities, float64 [N]). A tie
        goes to the lower class.

    Raises:
        ValueError: As in `label_rank`.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> classes, of_class, of_label = ops.predictions(torch.eye(2), 3 * torch.eye(2), torch.tensor([0, 0]))
        >>> classes.tolist(), of_class.exp().tolist() == of_label.exp().tolist()
        ([0, 1], False)
    """
    check_labelled(features, weight, labels, {"bias": bias})
    dtype = product_dtype(features, weight)
    factors, (_, shift) = (features.to(dtype), weight.to(dtype)), line(dtype, None, bias, None)
    classes, of_class, of_label = _predictions(*factors, indices(labels, len(weight)), shift)
    check_unread(features, weight, labels, {"bias": bias})
    return classes, of_class, of_label
