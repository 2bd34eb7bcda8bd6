"""torch.compile: its settings, a fallback where it fails, and a quick end of its worker processes."""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.utils._pytree import tree_map_only

from .log import first_line, log

T = TypeVar("T")

EXIT_S = 2.0


def compiled(function: Callable[..., T], **settings: Any) -> Callable[..., T]:
    """Return the function compiled by torch.compile with these settings."""
    compiled_function = torch.compile(function, **settings)

    def call(*arguments: Any) -> T:
        try:
            return compiled_function(*arguments)
        finally:
            hasten_exit()

    return call


def hasten_exit() -> None:
    """Make the interpreter wait only a few seconds for the compiler's worker processes at exit, then kill them.

    PyTorch before 2.13 waits five minutes for workers that were still starting when told to stop. This happens in a
    short process that finds all its GPU kernels in the cache.
    """
    inductor = sys.modules.get("torch._inductor.async_compile")
    for pool in getattr(inductor, "_pool_set", ()):
        process = getattr(pool, "process", None)
        if isinstance(process, subprocess.Popen):
            process.wait = functools.partial(wait_or_kill, process)  # type: ignore[method-assign]


def wait_or_kill(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
    """Wait for a process as `Popen.wait` does, but kill it after `EXIT_S` seconds; its own children then end too."""
    try:
        return subprocess.Popen.wait(process, EXIT_S if timeout is None else min(timeout, EXIT_S))
    except subprocess.TimeoutExpired:
        process.kill()
        return subprocess.Popen.wait(process)


def filled_up(tensor: Tensor, size: int) -> Tensor:
    """Return a tensor [B, ...] filled up to [size, ...] by its first row, so that only one size is compiled."""
    return torch.cat([tensor, tensor[:1].expand(size - len(tensor), *tensor.shape[1:])])


class Compiler:
    """A compiler of functions that warns and returns the functions themselves where torch.compile fails.

    Inductor keeps compiled code on disk (TORCHINDUCTOR_CACHE_DIR), so that the next run with the same shapes starts
    fast.

    Args:
        enabled: Whether to compile at all.
        channels_last: Whether all convolutions get their images in channels_last memory. Inductor by itself
            leaves out grouped ones.
        cuda_graphs: Whether to replay compiled code as CUDA graphs; gradients must be freed or copied before the next
            call.

    Attributes:
        works: Whether functions are compiled.
    """

    def __init__(self, enabled: bool = True, *, channels_last: bool = True, cuda_graphs: bool = False) -> None:
        self.works, self.cuda_graphs = enabled, cuda_graphs
        self.options: dict[str, str | int | bool | Callable[..., Any]] = {
            "layout_optimization": channels_last,
            "force_layout_optimization": channels_last,
            "triton.cudagraphs": cuda_graphs,
        }
        # Inductor recommends TF32 for fp32 products, even in a bf16 run
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")

    def __call__(self, eager: Callable[..., T]) -> Callable[..., T]:
        """Return the function, compiled anew for every shape of its arguments."""
        compiled_function = compiled(eager, dynamic=False, options=self.options)

        def call(*arguments: Any) -> T:
            if self.works:
                if self.cuda_graphs:
                    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                try:
                    return self.copied(compiled_function(*arguments))
                except TorchDynamoException as error:
                    log.warning(
                        "torch.compile does not work here (%s): steps run slower; see fastlt doctor", first_line(error)
                    )
                    self.works = False
            return eager(*arguments)

        return call

    def copied(self, results: T) -> T:
        """Return results that the next replay of a CUDA graph does not overwrite."""
        if not self.cuda_graphs:
            return results
        copies: T = tree_map_only(Tensor, torch.clone, results)
        return copies
