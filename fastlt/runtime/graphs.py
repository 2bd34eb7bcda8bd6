"""CUDA graphs: a function of tensors whose kernels are recorded once and then replayed by one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .log import first_line, log

T = TypeVar("T")

WARM_UP = 3  # calls before the recording, in which libraries set up their memory and kernels are compiled


class Replayed(Generic[T]):
    """A function of tensors that is replayed as a CUDA graph after its first calls; each call runs it exactly once.

    The function may change tensors of its own, such as parameters, as long as they stay where they are in memory. It
    must neither wait for the GPU nor let a value there decide what is computed. Shapes and types of its arguments are
    always those of the first call. Its results are overwritten by the next call.

    On a CPU, with `enabled` false, and where recording fails, which a line says, the function is simply called.

    Args:
        function: From tensors to a tensor, or tuples of them.
        device: Where they are.
        enabled: Whether to record at all.
    """

    def __init__(self, function: Callable[..., T], device: torch.device, *, enabled: bool = True) -> None:
        self.function, self.device = function, device
        self.records = enabled and device.type == "cuda"
        self.num_calls = 0
        self.stream: torch.cuda.Stream | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.results: T

    def __call__(self, *arguments: Tensor) -> T:
        """Return the function's result."""
        if self.records and self.graph is None:
            self.num_calls += 1
            if self.num_calls <= WARM_UP:
                return self.aside(*arguments)
            self.record(*arguments)
        if self.graph is None:
            return self.function(*arguments)
        for place, argument in zip(self.inputs, arguments, strict=True):
            place.copy_(argument, non_blocking=True)
        self.graph.replay()
        return self.results

    def aside(self, *arguments: Tensor) -> T:
        """Call the function on the stream that will record it, between what comes before and after on this one."""
        current = torch.cuda.current_stream(self.device)
        self.stream = self.stream or torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            results = self.function(*arguments)
        current.wait_stream(self.stream)
        return results

    def record(self, *arguments: Tensor) -> None:
        """Record the function, which runs nothing yet, on copies of the arguments that later ones are copied to."""
        self.inputs = [argument.clone() for argument in arguments]
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.stream(self.stream),  # restores the caller's stream where the recording's own exit fails
                # Calls of other threads, such as a loader's, do not end the recording
                torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"),
            ):
                self.results = self.function(*self.inputs)
        except RuntimeError as error:
            log.warning("no CUDA graph (%s): steps run slower", first_line(error))
            self.records = False
        else:
            self.graph = graph
