"""What every operation accepts: shapes, devices and values, each violation a ValueError that names the argument.

Shapes, types and devices are compared on every call. Values (labels in range, weights finite) have to be read, which on
an accelerator means waiting for it, and inside torch.compile means leaving the graph. So the operations of a training
step read values only where that is free (CPU tensors outside torch.compile); those of an evaluation always read them in
eager mode, one synchronisation a call.
"""

import math

import torch
from torch import Tensor

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def readable(tensor: Tensor, *, wait: bool) -> bool:
    """Whether a check may read values: eager mode, and on the CPU unless the caller accepts a synchronisation."""
    return not torch.compiler.is_compiling() and (wait or tensor.device.type == "cpu")


def _is_finite(tensor: Tensor) -> bool:
    """One sum, which NaN and infinity survive; the slower look only if that is not finite (it may have overflowed)."""
    tensor = tensor.detach()
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def check_product(features: Tensor, weight: Tensor, name: str = "weight", *, wait: bool) -> None:
    """Features [N, D], weight [C >= 1, D]: floating point, one device, equal widths; weight finite where it is read."""
    for label, tensor, shape in (("features", features, "[N, D]"), (name, weight, "[C, D]")):
        if tensor.dim() != 2:
            raise ValueError(f"{label} must have shape {shape}; got {list(tensor.shape)}")
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{label} must be float32, bfloat16, float16 or float64; got {tensor.dtype}")
    if weight.device != features.device:
        raise ValueError(f"{name} is on {weight.device}, features on {features.device}: move both to one device")
    if weight.shape[1] != features.shape[1]:
        raise ValueError(f"{name} has width {weight.shape[1]}, features {features.shape[1]}: both must be D wide")
    if weight.shape[0] == 0:
        raise ValueError(f"{name} must have at least one class; got shape {list(weight.shape)}")
    if readable(weight, wait=wait) and not _is_finite(weight):
        raise ValueError(f"{name} must be finite; got NaN or infinity")


def check_vector(name: str, vector: Tensor | None, size: int, features: Tensor, *, wait: bool = False) -> None:
    """An optional floating-point vector with `size` entries on the device of features, finite where that is read."""
    if vector is None:
        return
    if vector.shape != (size,):
        raise ValueError(f"{name} must have shape [{size}]; got {list(vector.shape)}")
    if vector.dtype not in _FLOATS:
        raise ValueError(f"{name} must be floating point; got {vector.dtype}")
    if vector.device != features.device:
        raise ValueError(f"{name} is on {vector.device}, features on {features.device}: move both to one device")
    if readable(vector, wait=wait) and not _is_finite(vector):
        raise ValueError(f"{name} must be finite; got NaN or infinity")


def check_labels(
    labels: Tensor, features: Tensor, num_classes: int, *, ignore_index: int | None = None, wait: bool
) -> None:
    """Labels [N]: integers on the device of features, each in 0..num_classes-1 or equal to ignore_index."""
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must have shape [{features.shape[0]}], one per feature row; got {list(labels.shape)}")
    if labels.dtype not in _INTEGERS:
        raise ValueError(f"labels must be integers (int64, int32, int16 or uint8); got {labels.dtype}")
    if labels.device != features.device:
        raise ValueError(f"labels are on {labels.device}, features on {features.device}: move both to one device")
    if not readable(labels, wait=wait):
        return
    outside = (labels < 0) | (labels >= num_classes)
    if ignore_index is not None:
        outside &= labels != ignore_index
    if outside.any():
        worst = int(labels[outside][0])
        raise ValueError(f"labels must be in 0..{num_classes - 1}; got {worst}")


def check_tau(tau: float | Tensor) -> None:
    """A finite tau >= 0; a tensor must be a scalar, and is read only on the CPU outside torch.compile."""
    if isinstance(tau, Tensor):
        if tau.numel() != 1:
            raise ValueError(f"tau must be a number or a scalar tensor; got shape {list(tau.shape)}")
        if not readable(tau, wait=False):
            return
        tau = float(tau.detach())
    if not (math.isfinite(tau) and tau >= 0):
        raise ValueError(f"tau must be finite and at least 0; got {tau}")


def product_dtype(features: Tensor, weight: Tensor) -> torch.dtype:
    """The type both factors are cast to: autocast's where it is on (as for F.linear), else their common type."""
    device = features.device.type
    dtype = torch.promote_types(features.dtype, weight.dtype)
    if torch.is_autocast_enabled(device) and dtype is not torch.float64:
        return torch.get_autocast_dtype(device)
    return dtype


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type of sums and of the per-class vectors: float64 for float64, float32 for every other."""
    return torch.float64 if dtype is torch.float64 else torch.float32
