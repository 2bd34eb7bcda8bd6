"""Checks of the operations' arguments: shapes, types, devices and values; each ValueError names the argument.

Shapes, types and devices are compared on every call. Values (labels in range, weights finite) have to be read, which on
an accelerator means waiting for it, and inside torch.compile means leaving the graph. So operations read values first
only where that is free (CPU tensors outside torch.compile). Those of an evaluation read them on an accelerator too, in
eager mode: once, after all launches (`check_unread`).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
Vectors = Mapping[str, Tensor | None]
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def needs_wait(tensor: Tensor) -> bool:
    """Return whether reading values means waiting for a device."""
    return tensor.device.type != "cpu"


def readable(tensor: Tensor, *, wait: bool) -> bool:
    """Return whether a check may read values: in eager mode, on the CPU or where the caller accepts the wait."""
    return not torch.compiler.is_compiling() and (wait or not needs_wait(tensor))


def _is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite: from their sum, and one by one only if the sum is not (it may overflow)."""
    tensor = tensor.detach()
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def check_product(features: Tensor, weight: Tensor, name: str = "weight", *, wait: bool) -> None:
    """Raise a ValueError unless features are [N, D] and weight [C >= 1, D], and finite where values are read.

    Both must be floating point, on one device.
    """
    for label, tensor, shape in (("features", features, "[N, D]"), (name, weight, "[C, D]")):
        if tensor.dim() != 2:
            raise ValueError(f"{label}: got shape {list(tensor.shape)}; expected {shape}")
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{label}: got {tensor.dtype}; expected float32, bfloat16, float16 or float64")
    check_device(name, weight, "features", features)
    if weight.shape[1] != features.shape[1]:
        raise ValueError(f"{name}: got width {weight.shape[1]}; expected {features.shape[1]}, that of features")
    if weight.shape[0] == 0:
        raise ValueError(f"{name}: got shape {list(weight.shape)}; expected at least one class")
    _check_finite(name, weight, wait=wait)


def check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise a ValueError unless two tensors are on one device."""
    if tensor.device != other.device:
        raise ValueError(f"{name}: got a tensor on {tensor.device}; expected {other.device}, where {other_name} is")


def check_exact(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, other_name: str, other: Tensor
) -> None:
    """Raise a ValueError unless a tensor has this very shape and type, on the device of another one."""
    if tuple(tensor.shape) != shape or tensor.dtype is not dtype:
        raise ValueError(f"{name}: got {tensor.dtype} {list(tensor.shape)}; expected {dtype} {list(shape)}")
    check_device(name, tensor, other_name, other)


def check_vectors(features: Tensor, size: int, *, wait: bool, **vectors: Tensor | None) -> None:
    """Raise a ValueError unless each vector, if any, has `size` entries and is finite where values are read.

    All must be floating point, on the device of features.
    """
    for name, vector in vectors.items():
        if vector is None:
            continue
        if vector.shape != (size,):
            raise ValueError(f"{name}: got shape {list(vector.shape)}; expected [{size}]")
        if vector.dtype not in _FLOATS:
            raise ValueError(f"{name}: got {vector.dtype}; expected a floating-point type")
        check_device(name, vector, "features", features)
        _check_finite(name, vector, wait=wait)


def _check_finite(name: str, tensor: Tensor, *, wait: bool) -> None:
    """Raise a ValueError for a value that is not finite, where values may be read."""
    if readable(tensor, wait=wait) and not _is_finite(tensor):
        raise ValueError(f"{name}: got NaN or infinity; expected finite values")


def check_labels(
    labels: Tensor, features: Tensor, num_classes: int, *, ignore_index: int | None = None, wait: bool
) -> None:
    """Raise a ValueError unless labels [N] are integers in 0..num_classes-1, or equal to ignore_index.

    They must be on the device of features, [N, D].
    """
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels: got shape {list(labels.shape)}; expected [{len(features)}], one a row of features")
    if labels.dtype not in _INTEGERS:
        raise ValueError(f"labels: got {labels.dtype}; expected int64, int32, int16 or uint8")
    check_device("labels", labels, "features", features)
    if not readable(labels, wait=wait):
        return
    outside = (labels < 0) | (labels >= num_classes)
    if ignore_index is not None:
        outside &= labels != ignore_index
    if outside.any():
        raise ValueError(f"labels: got {int(labels[outside][0])}; expected 0 to {num_classes - 1}")


def check_labelled(features: Tensor, weight: Tensor, labels: Tensor, vectors: Vectors, *, wait: bool = False) -> None:
    """Raise a ValueError unless features [N, D], weight [C, D], labels [N] and vectors [C] fit, as the checks above."""
    check_product(features, weight, wait=wait)
    check_labels(labels, features, weight.shape[0], wait=wait)
    check_vectors(features, weight.shape[0], wait=wait, **vectors)


def indices(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels by which a kernel may index: as they are where they have been read, else brought into range."""
    return labels.long().clamp(0, num_classes - 1) if needs_wait(labels) else labels


def check_unread(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    vectors: Vectors,
    *,
    witness: Tensor | None = None,
) -> None:
    """Check the values that `check_labelled` has not read on an accelerator, by one read at the end of a call.

    Args:
        features: As for `check_labelled`, which has passed.
        weight: As there.
        labels: As there.
        vectors: As there.
        witness: What is finite if and only if weight is, and smaller.
    """
    if not (len(labels) and needs_wait(labels) and readable(labels, wait=True)):
        return
    tensors = (weight if witness is None else witness, *vectors.values())
    sums = [tensor.detach().sum(dtype=accumulator(tensor.dtype)) for tensor in tensors if tensor is not None]
    low, high, *values = torch.stack([*labels.aminmax(), *sums]).tolist()
    if not (low >= 0 and high < weight.shape[0] and all(map(math.isfinite, values))):
        check_labelled(features, weight, labels, vectors, wait=True)  # one by one: a sum may only have overflowed


def check_tau(tau: float | Tensor) -> None:
    """Raise a ValueError unless tau is a finite number >= 0, or a scalar tensor (read on the CPU in eager mode)."""
    if isinstance(tau, Tensor):
        if tau.numel() != 1:
            raise ValueError(f"tau: got shape {list(tau.shape)}; expected a number or a scalar tensor")
        if not readable(tau, wait=False):
            return
        tau = float(tau.detach())
    if not (math.isfinite(tau) and tau >= 0):
        raise ValueError(f"tau: got {tau}; expected a finite number, at least 0")


def product_dtype(features: Tensor, weight: Tensor) -> torch.dtype:
    """Return the type that both factors are cast to: autocast's if on, as in F.linear, else their common one."""
    device = features.device.type
    dtype = torch.promote_types(features.dtype, weight.dtype)
    if torch.is_autocast_enabled(device) and dtype is not torch.float64:
        return torch.get_autocast_dtype(device)
    return dtype


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums and of per-class vectors: float64 for float64, float32 for every other type."""
    return torch.float64 if dtype is torch.float64 else torch.float32
