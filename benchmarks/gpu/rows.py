"""A row of figures, where it is measured, and the clock for calls on rotating inputs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastlt.runtime.compiling import compiled
from fastlt.runtime.graphs import WARM_UP, Replayed
from fastlt.runtime.log import first_line

T = TypeVar("T")
Figures = dict[str, Any]

L2_BYTES = 128 << 20  # more than any GPU's second cache has
ROUNDS, ROUND_MS = 7, 10


@dataclass(frozen=True)
class Row:
    """Figures that are measured together: they fail, hang and are measured again together.

    Attributes:
        name: Its name; what stands before a colon is the table that it belongs to.
        figures: Yields a figure at a time, flat; `name` tells it from the row's others.
        limit_s: Seconds after which it is taken to hang.
        operations: The modules of kernels whose checks its figures rest on.
    """

    name: str
    figures: Callable[[], Iterable[Figures]]
    limit_s: float = 60
    operations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """The device to measure; a CPU gets toy sizes, which show that the rows run."""

    device: torch.device

    @property
    def toy(self) -> bool:
        """Whether figures are for show."""
        return self.device.type == "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """The type that networks compute in."""
        return torch.float32 if self.toy else torch.bfloat16

    def pick(self, toy: T, full: T) -> T:
        """Return a toy size, or the size to measure."""
        return toy if self.toy else full

    def sets(self, num_bytes: int) -> int:
        """Return how many sets of inputs of that size no cache holds together."""
        return self.pick(1, max(2, min(16, -(-L2_BYTES // max(num_bytes, 1)))))

    def images(self, *shape: int) -> Tensor:
        """Return random channels_last images [B, C, H, W]."""
        return torch.randn(shape, device=self.device, dtype=self.dtype).to(memory_format=torch.channels_last)

    def compiled(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function by Inductor, or as it is where figures are for show: compiling takes longer than all."""
        torch._dynamo.reset()  # a function of many shapes would reach the limit of its compilations
        return function if self.toy else compiled(function, dynamic=False)

    def wait(self) -> None:
        """Wait until the device has done all its work."""
        if not self.toy:
            torch.cuda.synchronize(self.device)


def timed(target: Target, call: Callable[[int], object], sets: int = 1, *, graphed: bool = True) -> Figures:
    """Time a call whose argument rotates over sets of inputs.

    Args:
        target: The device.
        call: Takes the number of a set.
        sets: Their number.
        graphed: Whether to record the calls as a CUDA graph, which they must not wait for the device in.

    Returns:
        `ms` a call, the median of several rounds; `least_ms`, the fastest round's; and `graphed`, whether the host's
        part of the work is left out.
    """

    def rotation() -> None:
        for number in range(sets):
            call(number)

    once = Replayed(rotation, target.device, enabled=graphed)
    for _ in range(target.pick(1, WARM_UP + 1)):
        once()
    first_ms = elapsed_ms(target, once, 1)
    repeats = max(1, min(100, round(ROUND_MS / max(first_ms, 1e-3))))
    times = [elapsed_ms(target, once, repeats) / sets for _ in range(target.pick(1, ROUNDS))]
    return {"ms": statistics.median(times), "least_ms": min(times), "graphed": once.graph is not None}


def elapsed_ms(target: Target, work: Callable[[], object], repeats: int) -> float:
    """Return the milliseconds of some work, on a GPU by its own clock."""
    if target.toy:
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        return 1000 * (time.perf_counter() - began) / repeats
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    elapsed: float = start.elapsed_time(end)
    return elapsed / repeats


def rates(figure: Figures, num_bytes: float = 0.0, flop: float = 0.0) -> Figures:
    """Return a figure with the rates at which it moved bytes and computed."""
    more = {"tb_per_s": num_bytes / figure["ms"] / 1e9} if num_bytes else {}
    return figure | more | ({"tflops": flop / figure["ms"] / 1e9} if flop else {})


def attempt(name: str, measure: Callable[[], Figures]) -> Iterator[Figures]:
    """Yield a named figure, or its error: the row's others go on.

    Raises:
        RuntimeError: The device itself is broken.
    """
    try:
        yield {"name": name} | measure()
    except Exception as error:  # of any library
        if is_broken():
            raise
        yield {"name": name, "error": first_line(error)}


def is_broken() -> bool:
    """Return whether this process can no longer use its GPU, as after an access to an address that is not there.

    After a CUDA graph that could not be recorded, PyTorch may draw no more random numbers there.
    """
    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.rand(1, device="cuda").item()
        except RuntimeError:
            return True
    return False
