"""Logits of a linear head whose classes are scaled, shifted or normalised in the product's epilogue."""

import torch
from torch import Tensor

from . import backend, reference
from .checks import accumulator, check_product, check_tau, check_vector, product_dtype

_Vector = Tensor | None


@torch.library.custom_op("fastlt::scaled_logits", mutates_args=())
def _scaled_logits(
    features: Tensor, weight: Tensor, scale: _Vector, shift: _Vector, row: _Vector, column: _Vector
) -> Tensor:
    return reference.scaled_logits(features, weight, scale, shift, row, column)


@_scaled_logits.register_fake
def _(features, weight, scale, shift, row, column):  # type: ignore[no-untyped-def]
    return features.new_empty(features.shape[0], weight.shape[0])


@torch.library.custom_op("fastlt::scaled_logits_backward", mutates_args=())
def _scaled_logits_backward(
    grad: Tensor, features: Tensor, weight: Tensor, scale: _Vector, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.scaled_logits_backward(grad, features, weight, scale, needs)


@_scaled_logits_backward.register_fake
def _(grad, features, weight, scale, needs):  # type: ignore[no-untyped-def]
    return gradient_shapes(features, weight, needs)


def gradient_shapes(features: Tensor, weight: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fakes of the gradients of features, weight, scale and shift: empty where not needed."""
    dtype, classes = accumulator(features.dtype), weight.shape[0]
    need_x, need_w, need_s, need_shift = needs
    return (
        features.new_empty(features.shape if need_x else (0,)),
        weight.new_empty(weight.shape if need_w else (0,)),
        weight.new_empty(classes if need_s else 0, dtype=dtype),
        weight.new_empty(classes if need_shift else 0, dtype=dtype),
    )


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


@torch.library.custom_op("fastlt::tau_normalized_logits", mutates_args=())
def _tau_normalized_logits(features: Tensor, weight: Tensor, tau: float) -> Tensor:
    return reference.scaled_logits(features, weight, _norms(weight) ** -tau, None, None, None)


@_tau_normalized_logits.register_fake
def _(features, weight, tau):  # type: ignore[no-untyped-def]
    return features.new_empty(features.shape[0], weight.shape[0])


if backend.HAS_TRITON:

    @_scaled_logits.register_kernel("cuda")
    def _(features, weight, scale, shift, row, column):  # type: ignore[no-untyped-def]
        if features.dtype is torch.float64:
            return reference.scaled_logits(features, weight, scale, shift, row, column)
        return backend.kernels().scaled_logits(features, weight, scale, shift, row, column)

    @_tau_normalized_logits.register_kernel("cuda")
    def _(features, weight, tau):  # type: ignore[no-untyped-def]
        if features.dtype is torch.float64:
            return reference.scaled_logits(features, weight, _norms(weight) ** -tau, None, None, None)
        return backend.kernels().scaled_logits(features, weight, None, None, None, None, tau)

    @_scaled_logits_backward.register_kernel("cuda")
    def _(grad, features, weight, scale, needs):  # type: ignore[no-untyped-def]
        if features.dtype is torch.float64:
            return reference.scaled_logits_backward(grad, features, weight, scale, needs)
        return backend.kernels().scaled_logits_backward(grad, features, weight, scale, needs)


def line(
    dtype: torch.dtype, scale: Tensor | None, bias: Tensor | None, offset: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Scale and shift: z * scale + shift = (z + bias) * scale + offset, in the accumulator's type, differentiable."""
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
    """`(features @ weight.T + bias) * scale + offset`, with the per-class vectors applied in float32 before rounding.

    Differentiable for every argument; the gradient of scale needs no [N, C] product kept from the forward pass. First
    order only.

    Args:
        features: [N, D], any strides, float32, bfloat16, float16 or float64; cast as F.linear's under autocast.
        weight: [C, D] on the same device; where the types differ both are cast to the common one.
        scale: [C], learnable weight scaling's factor s_j (Kang et al., 2020, section 4.3).
        bias: [C], inside the scale.
        offset: [C], outside it (logit adjustment, balanced softmax).

    Returns:
        [N, C] in the type of the product.

    Raises:
        ValueError: if a shape, type or device does not fit, or (on the CPU) weight or a vector is not finite.
    """
    check_product(features, weight, wait=False)
    for name, vector in (("scale", scale), ("bias", bias), ("offset", offset)):
        check_vector(name, vector, weight.shape[0], features)
    dtype = product_dtype(features, weight)
    vectors = line(dtype, scale, bias, offset)
    logits: Tensor = _scaled_logits(features.to(dtype), weight.to(dtype), *vectors, None, None)
    return logits


def tau_normalized_logits(features: Tensor, weight: Tensor, tau: float | Tensor) -> Tensor:
    """`features @ (weight / ||weight||^tau).T` without a copy of weight: tau-normalisation (Kang et al., 2020, eq. 5).

    A class of zero norm scores 0 at every tau. Differentiable for features, weight and a tensor tau.

    Args:
        features: [N, D], as for `scaled_logits`.
        weight: [C, D].
        tau: a finite number >= 0, or a scalar tensor.

    Returns:
        [N, C] in the type of the product.

    Raises:
        ValueError: for a negative, infinite or NaN tau, and as `scaled_logits` does.
    """
    check_product(features, weight, wait=False)
    check_tau(tau)
    dtype = product_dtype(features, weight)
    features, weight = features.to(dtype), weight.to(dtype)
    learned = torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad)
    logits: Tensor
    if isinstance(tau, Tensor) or learned:
        norms = _norms(weight)
        tau = tau.to(norms.device, norms.dtype).reshape(()) if isinstance(tau, Tensor) else float(tau)
        logits = _scaled_logits(features, weight, norms**-tau, None, None, None)
    else:  # the norms come out of the product's own pass over weight
        logits = _tau_normalized_logits(features, weight, float(tau))
    return logits


def _norms(weight: Tensor) -> Tensor:
    """||w_j|| [C] in the accumulator's type; 1 for a zero row, whose products are 0 whatever their scale."""
    norms = torch.linalg.vector_norm(weight, dim=1, dtype=accumulator(weight.dtype))
    return torch.where(norms > 0, norms, 1.0)


def centroid_logits(
    features: Tensor, centroids: Tensor, *, center: Tensor | None = None, normalize: bool = True, metric: str = "l2"
) -> Tensor:
    """Nearest-class-mean scores on raw features: the argmax over classes is the released code's prediction.

    With x' = x - center and r = ||x'|| (1 unless `normalize`), the row x'/r is nearest to the class j that maximises
    `x . c_j - center . c_j - r ||c_j||^2 / 2`: a linear head plus a rank-one term, so nothing of x' is ever stored.
    metric "cos" is the released code's: the same without the last term, centroids not normalised. No gradients.

    Args:
        features: [N, D].
        centroids: [C, D], the class means of the (centred, normalised) features.
        center: [D], the mean that was subtracted before averaging, or None.
        normalize: whether rows are scaled to unit length after centring.
        metric: "l2" or "cos".

    Returns:
        [N, C], each row up to an additive constant and a positive factor.

    Raises:
        ValueError: if an argument does not fit or metric is unknown.
    """
    check_product(features, centroids, "centroids", wait=False)
    check_vector("center", center, features.shape[1], features)
    if metric not in ("l2", "cos"):
        raise ValueError(f'metric must be "l2" or "cos"; got {metric!r}')
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
    """||x - center|| of every row, [N], without a centred copy of more than a few rows."""
    radius = torch.empty(features.shape[0], dtype=dtype, device=features.device)
    for start in range(0, features.shape[0], 4096):
        x = features[start : start + 4096].to(dtype)
        radius[start : start + 4096] = torch.linalg.vector_norm(x if center is None else x - center.to(dtype), dim=1)
    return radius
