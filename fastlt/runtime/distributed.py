"""The processes of one training, as torchrun starts them: who writes, what they add up, and when they stop."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


class ReportedElsewhereError(Exception):
    """Training failed on every process alike; the one that writes says why, the others end quietly."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those that train together; without torchrun there is one.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        local_rank: Number of this process on its machine.
        local_size: Number of processes on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_writer(self) -> bool:
        """Whether this process makes the run folder and writes checkpoints and logs."""
        return self.rank == 0

    def first(self, function: Callable[[], T]) -> T:
        """Call a function on the process that writes, and give its result to all; the others wait for it.

        Raises:
            ReportedElsewhereError: It failed; the process that writes raises its own error.
        """
        if self.size == 1:
            return function()
        box: list[Any] = [None, False]
        if self.is_writer:
            try:
                box = [function(), True]
            except BaseException:
                distributed.broadcast_object_list(box, src=0)
                raise
        distributed.broadcast_object_list(box, src=0)
        if not box[1]:
            raise ReportedElsewhereError
        result: T = box[0]
        return result

    def gather(self, value: str) -> list[str]:
        """Return every process's value, by rank."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            distributed.all_gather_object(values, value)
        return values

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes."""
        total = tensor.clone()
        if self.size > 1:
            distributed.all_reduce(total)
        return total

    def largest(self, tensor: Tensor) -> Tensor:
        """Return the element-wise largest over all processes."""
        largest = tensor.clone()
        if self.size > 1:
            distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return largest

    def agree_on_signal(self, signals: list[int]) -> int:
        """Return the signal that any process was sent, 0 for none: the same on all, so that they stop together.

        The processors talk, not the GPUs, which work on.
        """
        own = signals[0] if signals else 0
        return own if self.size == 1 else int(self.largest(torch.tensor(own)))

    def average_buffers(self, model: nn.Module) -> None:
        """Give every process the mean of all running statistics, each of which saw its own share of the images.

        Running statistics are sums of what was seen, so that their mean is what one process would have got from the
        mean statistics of every batch.
        """
        if self.size > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.total(buffer) / self.size)

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Return the module with gradients averaged over all processes; alone, the module itself."""
        if self.size == 1:
            return module
        with warnings.catch_warnings():
            # torch 2.13 has another name for broadcast_buffers, which 2.11 lacks
            warnings.simplefilter("ignore", FutureWarning)
            # Running statistics are averaged where they matter, not overwritten by those of rank 0 in every step
            parallel = DistributedDataParallel(
                module,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
        # An attribute set last is freed last. Else the reducer would be the last to hold the processes' group, and end
        # it without letting go of the interpreter, for which one of the group's threads may be waiting: for ever
        vars(parallel)["last_freed"] = distributed.group.WORLD
        return parallel

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            distributed.barrier()


def under_torchrun() -> bool:
    """Say whether torchrun, or a launcher that speaks like it, has started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def is_writer() -> bool:
    """Say whether this process is the one that reports, before the processes have met."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def local_device(name: str) -> str:
    """Return the device of this process: under torchrun the GPU of its number, unless --device asks for the CPU."""
    if under_torchrun() and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return name


@contextlib.contextmanager
def join(device: torch.device) -> Iterator[World]:
    """Meet the other processes that torchrun started, over nccl and gloo; alone outside it.

    A process group that exists already is used, and left to whoever made it.
    """
    if not under_torchrun() or int(os.environ["WORLD_SIZE"]) == 1:
        yield World()
        return
    made = not distributed.is_initialized()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if made:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(
            rank=distributed.get_rank(),
            size=distributed.get_world_size(),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
    finally:
        if made:
            distributed.destroy_process_group()
