"""Logits of a linear head whose classes are scaled, shifted or normalised in the product's epilogue."""

import torch
from torch import Tensor

from ..config import check_choice
from . import backend, reference
from .checks import accumulator, check_product, check_tau, check_vectors, product_dtype

_scaled_logits = torch.library.custom_op("fastlt::scaled_logits", reference.scaled_logits, mutates_args=())
_scaled_logits_backward = torch.library.custom_op(
    "fastlt::scaled_logits_backward", reference.scaled_logits_backward, mutates_args=()
)
_tau_normalized_logits = torch.library.custom_op(
    "fastlt::tau_normalized_logits", reference.tau_normalized_logits, mutates_args=()
)
backend.register_kernel(_scaled_logits, "linear", "scaled_logits")
backend.register_kernel(_scaled_logits_backward, "linear", "scaled_logits_backward")
backend.register_kernel(_tau_normalized_logits, "linear", "tau_normalized_logits")


@_scaled_logits.register_fake
@_tau_normalized_logits.register_fake
def _(features, weight, *_):  # type: ignore[no-untyped-def]
    return features.new_empty(features.shape[0], weight.shape[0])


@_scaled_logits_backward.register_fake
def _(grad, features, weight, scale, needs):  # type: ignore[no-untyped-def]
    return reference.finish(reference.new_gradients(features, weight, needs), weight)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    features, weight, scale, *_ = inputs
    ctx.save_for_backward(features, weight, scale)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    *needs, need_row, need_column = ctx.needs_input_grad
    if need_row or need_column:
        raise NotImplementedError("the rank-one term of centroid_logits has no gradient")
    gradients = _scaled_logits_backward(grad, *ctx.saved_tensors, needs)
    return *(g if need else None for g, need in zip(gradients, needs, strict=True)), None, None


_scaled_logits.register_autograd(_backward, setup_context=_save)


def line(
    dtype: torch.dtype, scale: Tensor | None, bias: Tensor | None, offset: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the scale and shift of z * scale + shift = (z + bias) * scale + offset, in the accumulator's type.

    So every implementation has only two vectors to apply, and the gradients of all three come from two column sums.
    """
    scale, bias, offset = (None if v is None else v.to(accumulator(dtype)).contiguous() for v in (scale, bias, offset))
    shift = bias if bias is None or scale is None else bias * scale
    if shift is None or offset is None:
        return scale, offset if shift is None else shift
    return scale, shift + offset


def scaled_logits(
    features: Tensor,
    weight: Tensor,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """Return `(features @ weight.T + bias) * scale + offset`, with its vectors applied in float32 before rounding.

    Differentiable once, for every argument. The gradient of scale needs no [N, C] product kept from the forward pass.
    For scripts: fastlt folds scales into its heads, and asks `predictions` and `label_rank` instead of logits.

    Args:
        features: [N, D], any strides, float32, bfloat16, float16 or float64; cast as in F.linear under autocast.
        weight: [C, D] on the same device; where the types differ both are cast to the common one.
        scale: [C], or None for 1: learnable weight scaling's factor s_j (Kang et al., 2020, section 4.3).
        bias: [C], inside the scale, or None.
        offset: [C], outside the scale (logit adjustment, balanced softmax), or None.

    Returns:
        [N, C] in the type of the product.

    Raises:
        ValueError: A shape, type or device does not fit, or (on the CPU) weight or a vector is not finite.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> features, scale, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([1.0, 0.25]), torch.tensor([1.0, 2.0])
        >>> ops.scaled_logits(features, torch.eye(2), scale=scale, bias=bias)
        tensor([[2., 1.]])
    """
    check_product(features, weight, wait=False)
    check_vectors(features, weight.shape[0], wait=False, scale=scale, bias=bias, offset=offset)
    dtype = product_dtype(features, weight)
    vectors = line(dtype, scale, bias, offset)
    logits: Tensor = _scaled_logits(features.to(dtype), weight.to(dtype), *vectors, None, None)
    return logits


def tau_normalized_logits(features: Tensor, weight: Tensor, tau: float | Tensor) -> Tensor:
    """Return `features @ (weight / ||weight||^tau).T`, tau-normalization (Kang et al., 2020, equation 5).

    No scaled copy of weight is made. A class of zero norm scores 0 at every tau. Differentiable once, for features,
    weight and a tensor tau. For scripts: fastlt itself finds the accuracy at every tau by `tau_intervals`.

    Args:
        features: [N, D], as for `scaled_logits`.
        weight: [C, D].
        tau: A finite number >= 0, or a scalar tensor.

    Returns:
        [N, C] in the type of the product.

    Raises:
        ValueError: tau is negative or not finite, or as in `scaled_logits`.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> weight = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
        >>> ops.tau_normalized_logits(torch.tensor([[1.0, 2.0]]), weight, tau=0.5)
        tensor([[2., 2.]])
    """
    check_product(features, weight, wait=False)
    check_tau(tau)
    dtype = product_dtype(features, weight)
    features, weight = features.to(dtype), weight.to(dtype)
    learned = torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad)
    logits: Tensor
    if isinstance(tau, Tensor) or learned:
        norms = reference.class_norms(weight, accumulator(dtype))
        tau = tau.to(norms.device, norms.dtype).reshape(()) if isinstance(tau, Tensor) else float(tau)
        logits = _scaled_logits(features, weight, norms**-tau, None, None, None)
    else:  # the norms come out of the product's own pass over weight
        logits = _tau_normalized_logits(features, weight, float(tau))
    return logits


def centroid_logits(
    features: Tensor, centroids: Tensor, *, center: Tensor | None = None, normalize: bool = True, metric: str = "l2"
) -> Tensor:
    """Return nearest-class-mean scores of raw features, whose argmax is the released code's prediction.

    With x' = x - center and r = ||x'|| (1 unless `normalize`), the row x' / r is nearest to the class j that maximises
    `x . c_j - center . c_j - r ||c_j||^2 / 2`: a linear head plus a rank-one term, so that x' is never stored. The
    metric "cos" leaves out the last term and does not normalise the centroids, as in the released code. No gradients.

    Args:
        features: [N, D].
        centroids: [C, D], the class means of the (centred, normalised) features.
        center: [D], the mean that was subtracted before averaging, or None.
        normalize: Whether rows are scaled to unit length after centring.
        metric: "l2" or "cos".

    Returns:
        [N, C], each row up to an additive constant and a positive factor.

    Raises:
        ValueError: A shape, type or device does not fit, a value is not finite (read on the CPU), or the metric is
            unknown.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> centroids = torch.tensor([[0.0, 1.0], [4.0, 0.0]])
        >>> ops.centroid_logits(torch.tensor([[1.0, 0.0]]), centroids, normalize=False).argmax(1)
        tensor([0])
    """
    check_product(features, centroids, "centroids", wait=False)
    check_vectors(features, features.shape[1], wait=False, center=center)
    check_choice("metric", metric, ("l2", "cos"))
    features, centroids = features.detach(), centroids.detach()
    dtype = product_dtype(features, centroids)
    wide = centroids.to(accumulator(dtype))
    shift = None if center is None else -(wide @ center.to(wide.dtype))
    row = column = None
    if metric == "l2":
        column = wide.square().sum(1).mul(-0.5)
        row = _radius(features, center, wide.dtype) if normalize else column.new_ones(features.shape[0])
    scores: Tensor = _scaled_logits(features.to(dtype), centroids.to(dtype), None, shift, row, column)
    return scores


def _radius(features: Tensor, center: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return ||x - center|| of every row, [N], without a centred copy of more than a few rows."""
    radius = torch.empty(features.shape[0], dtype=dtype, device=features.device)
    for start in range(0, features.shape[0], 4096):
        x = features[start : start + 4096].to(dtype)
        radius[start : start + 4096] = torch.linalg.vector_norm(x if center is None else x - center.to(dtype), dim=1)
    return radius


def sgd_step(
    parameter: Tensor,
    velocity: Tensor,
    gradient: Tensor,
    *,
    rates: Tensor,
    decays: Tensor,
    share: Tensor,
    momentum: float,
    copy: Tensor | None = None,
) -> None:
    """Take a step of SGD on the parameters of K heads, in place; one pass over them on a GPU.

    v becomes momentum v + gradient + decay parameter, and the parameter loses share * rate * v. Nothing is checked, and
    gradients must be off (`torch.no_grad`).

    Args:
        parameter: float32 [K, ...], contiguous.
        velocity: As the parameter: the v of the last step.
        gradient: As the parameter, of any floating-point type.
        rates: [K] learning rates.
        decays: [K] weight decays.
        share: [], what the rates are multiplied by in this step.
        momentum: Share of v that remains.
        copy: As the parameter, in the type of the next product's factors; it is overwritten by the parameter.
    """
    bodies = backend.bodies(parameter, "linear")
    bodies.sgd_step(parameter, velocity, gradient, copy, rates, decays, share, momentum)
