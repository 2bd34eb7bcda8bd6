"""A GPU for the compiler only: torch.compile lowers for it from fake tensors; nothing is compiled or run.

FakeTensorMode goes as far only in a build of PyTorch for CUDA. What is missing in one for CPUs is pretended here, for
good: use it in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

DEVICE = torch.device("cuda", 0)
H200 = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    warp_size=32,
    multi_processor_count=132,
    max_threads_per_block=1024,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
    L2_cache_size=60 << 20,
    total_memory=143771 << 20,
    gcnArchName="",  # asked for in a build without CUDA
)
CUDA, META = 1, 14  # c10::DeviceType


class Lowered(BaseException):
    """The code is generated, and what would come next is to run it."""


def pretend() -> None:
    """Pretend that there is an H200, before anything asks whether there is."""
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (H200.major, H200.minor),
        "get_device_properties": H200,
        "get_rng_state": torch.empty(0, dtype=torch.uint8),
        "set_rng_state": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
    }
    for name, value in answers.items():
        setattr(torch.cuda, name, answering(value))
    FakeTensorMode.avoid_device_init = True  # type: ignore[assignment, method-assign]
    guard_nothing()
    torch.autograd.grad = torch.no_grad()(gradients)
    # As cuDNN has it; a build without cuDNN would name another layout
    torch._C._conv_determine_backend_memory_format = lambda images, weight, _: channels_last_if_any(images, weight)

    # Now, since this module asks for the device as it is imported
    from torch.utils import _triton

    _triton.triton_hash_with_backend = answering("")


@contextlib.contextmanager
def lowering() -> Iterator[list[Any]]:
    """Lower what torch.compile is given within a `with` block, without running it.

    Yields:
        A list to which each lowered graph is added, a backward one as well.

    Raises:
        Lowered: In the block, by a compiled function, as it is called.
    """
    from torch._functorch import config as functorch_config
    from torch._inductor import config as inductor_config
    from torch._inductor.graph import GraphLowering

    graphs: list[Any] = []

    def generate(graph: Any) -> SimpleNamespace:
        graph.codegen()
        graphs.append(graph)
        return SimpleNamespace(call=stop, __file__=__file__)

    with (
        mock.patch.object(GraphLowering, "compile_to_module", generate),
        # Constants would be computed on the device
        inductor_config.patch(compile_threads=1, fx_graph_cache=False, joint_graph_constant_folding=False),
        functorch_config.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True),
    ):
        yield graphs


def answering(value: object) -> Callable[..., object]:
    """Return a function that returns the value."""
    return lambda *args, **settings: value


def stop(*args: object) -> None:
    """Stand for the generated code.

    Raises:
        Lowered: Always.
    """
    raise Lowered


def guard_nothing() -> None:
    """Let C++ guard CUDA devices as it guards meta ones, by doing nothing, in a build without CUDA."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (META + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    guards[CUDA] = guards[CUDA] or guards[META]


def channels_last_if_any(*tensors: Tensor) -> torch.memory_format:
    """Return channels_last where any of the tensors is, as cuDNN's convolutions do."""
    formats = [torch._prims_common.suggest_memory_format(tensor) for tensor in tensors]
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format


def gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor | None],
    **settings: object,
) -> tuple[Tensor | None, ...]:
    """Return what `torch.autograd.grad` returns, without its engine, which asks for the device's streams.

    Nodes run as in the engine: the latest of the forward pass first, each when all its gradients have arrived.
    """
    places = {edge(tensor): at for at, tensor in enumerate(inputs)}
    ends = {node for node, _ in places}
    slots: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    for tensor, gradient in zip(outputs, grad_outputs, strict=True):
        add(slots, edge(tensor), gradient)
    awaited = Counter(following for node in nodes(slots, ends) for following, _ in edges(node, ends))
    counter = itertools.count()
    ready = [(-node._sequence_nr(), next(counter), node) for node in slots if not awaited[node]]
    heapq.heapify(ready)
    results: list[Tensor | None] = [None] * len(inputs)
    while ready:
        node = heapq.heappop(ready)[2]
        arrived = slots.pop(node, {})
        for slot in arrived:
            if (node, slot) in places:
                results[places[node, slot]] = arrived[slot]
        following = edges(node, ends)
        flowing = run(node, arrived) if arrived and following else [None] * len(following)
        for place, gradient in zip(following, flowing, strict=True):
            if place[0] is not None:
                add(slots, place, gradient)
                awaited[place[0]] -= 1
                if not awaited[place[0]]:
                    heapq.heappush(ready, (-place[0]._sequence_nr(), next(counter), place[0]))
    return tuple(results)


def edge(tensor: Tensor) -> tuple[Any, int]:
    """Return the node that a tensor's gradient flows into, and the number of its slot."""
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def edges(node: Any, ends: set[Any]) -> Sequence[tuple[Any, int]]:
    """Return where a node's gradients flow, nowhere from an end; a node may be None."""
    return () if node is None or node in ends else node.next_functions


def nodes(roots: Iterable[Any], ends: set[Any]) -> set[Any]:
    """Return all nodes that gradients flow into from the roots."""
    found = set(roots)
    left = list(found)
    while left:
        new = {node for node, _ in edges(left.pop(), ends)} - found
        found |= new
        left += new
    return found


def add(slots: dict[Any, dict[int, Tensor]], place: tuple[Any, int], gradient: Tensor | None) -> None:
    """Add a gradient to those that have arrived at a node's slot."""
    node, slot = place
    if gradient is not None:
        slots[node][slot] = slots[node][slot] + gradient if slot in slots[node] else gradient


def run(node: Any, arrived: dict[int, Tensor]) -> list[Tensor | None]:
    """Return the gradients that a node makes of those that have arrived at its slots, one for each of its edges."""
    arguments = [arrived.get(slot) for slot in range(len(node._input_metadata))]
    if not hasattr(node, "apply"):
        results = node(*arguments)
        return list(results) if isinstance(results, tuple) else [results]
    # A function in Python takes zeros for None; it has gradients for all arguments, but edges for tensors alone
    for slot, like in enumerate(node._input_metadata):
        if arguments[slot] is None:
            arguments[slot] = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    results = iter(itertools.compress(node.apply(*arguments), node.needs_input_grad))
    return [None if following is None else next(results) for following, _ in node.next_functions]


def on_the_card(module: nn.Module) -> nn.Module:
    """Give a module of meta tensors fake ones on the pretended card, with the same strides; return it."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            part.register_parameter(name, nn.Parameter(fake_like(parameter)))
        for name, buffer in list(part.named_buffers(recurse=False)):
            part.register_buffer(name, fake_like(buffer))
    return module


def fake_like(tensor: Tensor) -> Tensor:
    """Return a tensor like a meta tensor, on the pretended card; within a FakeTensorMode."""
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=DEVICE)
