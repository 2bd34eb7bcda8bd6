"""Where the Triton kernels come from: the only import of fastlt.kernels, made on the first call that needs it."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import reference

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef

HAS_TRITON = importlib.util.find_spec("triton") is not None


def has_kernels(tensor: Tensor) -> bool:
    """Return whether operations on a tensor are kernels of ours: on a GPU with Triton."""
    return HAS_TRITON and tensor.is_cuda


def kernels(module: str) -> ModuleType:
    """Return fastlt.kernels.launch_<module>; importing triton takes time, so `import fastlt.ops` does not."""
    return importlib.import_module(f"fastlt.kernels.launch_{module}")


def bodies(tensor: Tensor, module: str, plain: ModuleType = reference) -> ModuleType:
    """Return where the functions of a tensor are: launch_<module>, or `plain` in float64 and without kernels."""
    return kernels(module) if has_kernels(tensor) and tensor.dtype is not torch.float64 else plain


def row_width(tensor: Tensor, num_columns: int) -> int:
    """Return the width of rows that hold logits where a tensor is: 16 divides it for kernels, which read vectors."""
    padded = has_kernels(tensor) and tensor.dtype is not torch.float64
    return num_columns + -num_columns % 16 if padded else num_columns


def register_kernel(operation: CustomOpDef, module: str, name: str, plain: ModuleType = reference) -> None:
    """Run an operation on a GPU by the launcher `name` of launch_<module>; in float64, by that of module `plain`."""
    if not HAS_TRITON:
        return

    @operation.register_kernel("cuda")
    def _(first: Tensor, *args: Any) -> Any:
        return getattr(bodies(first, module, plain), name)(first, *args)
