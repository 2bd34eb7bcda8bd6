"""The processes that train together under torchrun: which of them writes, what they sum, and when they stop."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from .process import under_torchrun

T = TypeVar("T")

ONE_BUCKET_MB = 1 << 14  # more than any network has


class ReportedElsewhereError(Exception):
    """Training failed, and another process, the one that writes, reports the reason."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those that train together; without torchrun it is the only one.

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
        """Call a function on the process that writes, and return its result on all processes.

        Raises:
            ReportedElsewhereError: The function failed; the process that writes raises the function's own error.
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
        """Return the element-wise maximum over all processes."""
        largest = tensor.clone()
        if self.size > 1:
            distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return largest

    def agree_on_signal(self, signals: list[int]) -> int:
        """Return a signal that some process received, or 0: the same on all, so that they stop together.

        The exchange is on the CPU, so that it does not wait for a GPU.
        """
        signum = signals[0] if signals else 0
        return signum if self.size == 1 else int(self.largest(torch.tensor(signum)))

    def average_buffers(self, model: nn.Module) -> None:
        """Give every process the mean of the running statistics of all processes.

        Running statistics are linear in the statistics of the batches, so their mean is what one process would have
        computed from the mean statistics of every batch.
        """
        if self.size > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.total(buffer) / self.size)

    def parallel(self, module: nn.Module, device: torch.device, *, in_bf16: bool = False) -> nn.Module:
        """Return the module with gradients averaged over all processes, or the module itself if there is only one.

        A compiled backward pass yields all gradients at once, so several buckets would overlap with hardly more than
        the copies of gradients into the next one: on a GPU there is one. Neither way has been measured.

        Args:
            module: Returns a loss.
            device: Where it is.
            in_bf16: Whether to round gradients to bfloat16 for the exchange.
        """
        if self.size == 1:
            return module
        with warnings.catch_warnings():
            # torch 2.13 renames broadcast_buffers; 2.11 lacks the new name
            warnings.simplefilter("ignore", FutureWarning)
            # `average_buffers` averages running statistics where they matter; rank 0's must not overwrite the others
            parallel = DistributedDataParallel(
                module,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                bucket_cap_mb=ONE_BUCKET_MB if device.type == "cuda" else None,
            )
        if in_bf16:
            # PyTorch knows its hook by name, and refuses it without a GPU
            parallel.register_comm_hook(None, lambda state, bucket: bf16_compress_hook(state, bucket))
        # The attribute set last is freed last. Otherwise the reducer would free the process group with the GIL
        # held, for which one of the group's threads may be waiting: a deadlock
        vars(parallel)["last_freed"] = distributed.group.WORLD
        return parallel

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            distributed.barrier()


def local_device(name: str) -> str:
    """Return the name of this process's device: under torchrun the GPU of its local rank, unless --device names one."""
    if under_torchrun() and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return name


@contextlib.contextmanager
def join(device: torch.device) -> Iterator[World]:
    """Join the other processes that torchrun started, over nccl and gloo; without torchrun this is the only process.

    An existing process group is used and left in place.
    """
    if not under_torchrun() or int(os.environ["WORLD_SIZE"]) == 1:
        yield World()
        return
    creates_group = not distributed.is_initialized()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if creates_group:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(
            rank=distributed.get_rank(),
            size=distributed.get_world_size(),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
    finally:
        if creates_group:
            distributed.destroy_process_group()
