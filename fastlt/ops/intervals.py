"""For every sample the exact interval of tau on which it is classified right: one product instead of one per tau."""

import torch
from torch import Tensor

from . import backend, reference
from .checks import accumulator, check_labels, check_product, check_vector, product_dtype
from .linear import line


@torch.library.custom_op("fastlt::intervals", mutates_args=())
def _intervals(
    features: Tensor, weight: Tensor, labels: Tensor, slope: Tensor, shift: Tensor | None, log: bool
) -> tuple[Tensor, Tensor]:
    return reference.intervals(features, weight, labels, slope, shift, log)


@_intervals.register_fake
def _(features, weight, labels, slope, shift, log):  # type: ignore[no-untyped-def]
    low = features.new_empty(features.shape[0], dtype=accumulator(features.dtype))
    return low, torch.empty_like(low)


if backend.HAS_TRITON:

    @_intervals.register_kernel("cuda")
    def _(features, weight, labels, slope, shift, log):  # type: ignore[no-untyped-def]
        if features.dtype is torch.float64:
            return reference.intervals(features, weight, labels, slope, shift, log)
        return backend.kernels().intervals(features, weight, labels, slope, shift, log)


@torch.no_grad()
def tau_intervals(features: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The open interval (low, high) of taus at which tau-normalised logits put each sample's label first.

    With z_j = x . w_j and n_j = ||w_j|| the logits are z_j / n_j^tau, so on a log scale every class is a straight line
    in tau and each rival bounds the label's tau from one side: t_j = (log z_j - log z_y) / (log n_j - log n_y). A
    negative label's logit can win only where all are negative, with the sides exchanged: ARCHITECTURE.md has the proof.

    Conventions: the ends are crossings, where either answer is right, and belong to no interval; a sample that is
    never right gets (inf, -inf); of two identical lines (same norm, same logit) the lower index wins, as in argmax; a
    class of zero norm scores 0 at every tau; logits below the smallest normal number count as 0. Finite input gives no
    NaN.

    Args:
        features: [N, D] on any device, as for `scaled_logits`; logits are accumulated and compared in float32 (float64
            for float64). bfloat16 inputs change about 0.1 % of the decisions: report in float32.
        weight: [C, D]; a head's bias plays no part in tau-normalisation.
        labels: integers [N] in 0..C-1.

    Returns:
        low [N], high [N] in the accumulator's type.

    Raises:
        ValueError: if a shape, type or device does not fit, a label is out of range or weight is not finite (read on
            every device: one synchronisation; not inside torch.compile).
    """
    check_product(features, weight, wait=True)
    check_labels(labels, features, weight.shape[0], wait=True)
    dtype = product_dtype(features, weight)
    weight = weight.to(dtype)
    norms = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64)
    slope = torch.where(norms > 0, norms, 1.0).log2().to(accumulator(dtype))
    low, high = _intervals(features.to(dtype), weight, labels, slope, None, True)
    return low, high


@torch.no_grad()
def prior_intervals(
    features: Tensor, weight: Tensor, labels: Tensor, log_prior: Tensor, *, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The open interval (low, high) of taus at which logit adjustment, z_j + b_j - tau log_prior_j, is right.

    The same lines as in `tau_intervals` without the logarithm (Menon et al., 2021, equation 9); the same conventions,
    with equal priors and equal logits as identical lines.

    Args:
        features: [N, D].
        weight: [C, D].
        labels: integers [N] in 0..C-1.
        log_prior: [C], finite.
        bias: [C] or None.

    Returns:
        low [N], high [N] in the accumulator's type.

    Raises:
        ValueError: as `tau_intervals`, and for a bias or log_prior that does not fit or is not finite.
    """
    check_product(features, weight, wait=True)
    check_labels(labels, features, weight.shape[0], wait=True)
    check_vector("log_prior", log_prior, weight.shape[0], features, wait=True)
    check_vector("bias", bias, weight.shape[0], features, wait=True)
    dtype = product_dtype(features, weight)
    slope, bias = line(dtype, log_prior, None, bias)
    low, high = _intervals(features.to(dtype), weight.to(dtype), labels, slope, bias, False)
    return low, high
