"""The kernels of a graph that Inductor has lowered, from its own records, and of our operations, from their launchers.

Bytes are those of all tensors that a kernel takes, each read or written once, of one that it changes twice. Kernels of
libraries are one launch each (a convolution's backward pass one for each of its gradients), which is the least.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._inductor.codegen import wrapper
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from triton.runtime.jit import JITFunction

from fastlt.ops import backend


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kind: What makes it: Inductor's "pointwise", "reduction" or "combined" kernels, a library's "convolution",
            "product" or "other", or the name of an operation of ours.
        kernel: Its name.
        num_bytes: Bytes read and written.
    """

    kind: str
    kernel: str
    num_bytes: int


INDUCTOR = {"poi": "pointwise", "red": "reduction", "per": "reduction"}


def launches(graph: Any) -> list[Launch]:
    """Return all launches of a lowered graph, in their order."""
    found: list[Launch] = []
    for line in graph.wrapper_code.lines:
        if isinstance(line, wrapper.KernelCallLine):
            found.append(of_inductor(graph, line))
        elif isinstance(line, wrapper.ExternKernelAllocLine | wrapper.ExternKernelOutLine):
            found += of_operation(line.node)
    return found


def of_inductor(graph: Any, line: Any) -> Launch:
    """Return the launch of a kernel that Inductor has generated."""
    num_bytes = 0
    for parameter, name in zip(line.triton_meta["signature"], line.call_args, strict=False):
        if "ptr" in parameter:
            size = int(graph.get_numel(name)) * graph.get_dtype(name).itemsize
            num_bytes += 2 * size if parameter.startswith("in_out") else size
    kind = line.kernel_name.removeprefix("triton_").split("_")[0]
    return Launch(INDUCTOR.get(kind, "combined"), line.kernel_name, num_bytes)


def of_operation(node: Any) -> list[Launch]:
    """Return the launches of an operation that Inductor leaves as it is."""
    operation, name = node.op_overload, node.op_overload.name()
    call = node.fx_node
    arguments, result = tree_map(value_of, call.args), value_of(call)
    if operation.namespace == "fastlt":
        return of_ours(operation, arguments)
    if operation is torch.ops.aten.convolution_backward.default:
        gradient, images, weight = arguments[:3]
        reads = (weight, images, None)
        return [
            Launch("convolution", name, size([gradient, read, made]))
            for read, made in zip(reads, result, strict=True)
            if made is not None
        ]
    kind = "convolution" if "convolution" in name else "product" if "mm" in name else "other"
    return [Launch(kind, name, size([*arguments, result]))]


def value_of(argument: Any) -> Any:
    """Return the tensors of a node of the graph; other arguments as they are."""
    return argument.meta["val"] if isinstance(argument, torch.fx.Node) else argument


def size(values: Any) -> int:
    """Return the bytes of all tensors among the values."""
    return sum(leaf.nbytes for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def of_ours(operation: Any, arguments: Any) -> list[Launch]:
    """Return the launches of an operation of ours, by running its GPU body on tensors without data."""

    def without_data(argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        return torch.empty_strided(argument.size(), argument.stride(), dtype=argument.dtype, device="meta")

    with recording(operation.name()) as found:
        keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
        operation.redispatch(keys, *tree_map(without_data, arguments))
    return found


@contextlib.contextmanager
def recording(kind: str) -> Iterator[list[Launch]]:
    """Record what is launched within a `with` block, Triton's kernels and PyTorch's, instead of launching it."""
    found: list[Launch] = []

    def record(function: Any, *arguments: Any, **settings: Any) -> None:
        found.append(Launch(kind, function.fn.__name__, size([arguments, settings])))

    class Eager(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = operation(*args, **(kwargs or {}))
            if not operation.is_view and "empty" not in operation.name():
                found.append(Launch(kind, operation.name(), size([args, kwargs, result])))
            return result

    kernels = mock.patch.object(backend, "has_kernels", return_value=True)
    with kernels, mock.patch.object(JITFunction, "run", record), Eager():
        yield found


def not_channels_last(graph: Any) -> list[str]:
    """Return the graph's convolutions of which images, or gradients of images, are not in channels_last memory."""
    return [
        str(line.node.fx_node)
        for line in graph.wrapper_code.lines
        if isinstance(line, wrapper.ExternKernelAllocLine)
        and line.node.op_overload in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
        and not all(map(is_channels_last, images_of(line.node)))
    ]


def images_of(convolution: Any) -> list[Any]:
    """Return the images, and gradients of images, that a convolution reads or writes."""
    if convolution.op_overload is torch.ops.aten.convolution.default:
        return [convolution.inputs[0], convolution]
    gradient, images, _ = convolution.inputs
    return [made for made in (gradient, images, convolution.outputs[0]) if made is not None]


def is_channels_last(images: Any) -> bool:
    """Return whether images [B, C, H, W] of Inductor's are in channels_last memory."""
    _, channels, _, width = images.get_size()
    return list(images.get_stride()[1:]) == [1, width * channels, channels]
