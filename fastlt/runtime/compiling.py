"""torch.compile, without what holds up the end of a process."""

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
    """Return the function compiled by torch.compile, with its settings."""
    works = torch.compile(function, **settings)

    def call(*arguments: Any) -> T:
        try:
            return works(*arguments)
        finally:
            hasten_exit()

    return call


def hasten_exit() -> None:
    """Have the compiler's worker processes waited for at exit for a few seconds only, and then ended.

    PyTorch before 2.13 waits five minutes for workers that were still starting when they were asked to stop, as those
    of a GPU's kernels are in a short process that found all its kernels in the cache.
    """
    inductor = sys.modules.get("torch._inductor.async_compile")
    for pool in getattr(inductor, "_pool_set", ()):
        process = getattr(pool, "process", None)
        if isinstance(process, subprocess.Popen):
            process.wait = functools.partial(wait_or_kill, process)  # type: ignore[method-assign]


def wait_or_kill(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
    """Wait for a process as `Popen.wait` does, but not for long; its own children notice its end by themselves."""
    try:
        return subprocess.Popen.wait(process, EXIT_S if timeout is None else min(timeout, EXIT_S))
    except subprocess.TimeoutExpired:
        process.kill()
        return subprocess.Popen.wait(process)


class Compiler:
    """Compiles functions; where torch.compile does not work, says so once and goes on without it.

    What Inductor made is kept on disk (TORCHINDUCTOR_CACHE_DIR), so that the next run with the same shapes starts fast.

    Args:
        wanted: Whether to compile at all.
        channels_last: Whether convolutions are to have their images in channels_last memory, grouped ones too, which
            Inductor would except.
        cuda_graphs: Whether to replay what was compiled as CUDA graphs; gradients must be gone by the next call.

    Attributes:
        works: Whether functions are compiled.
    """

    def __init__(self, wanted: bool = True, *, channels_last: bool = True, cuda_graphs: bool = False) -> None:
        self.works, self.cuda_graphs = wanted, cuda_graphs
        self.options: dict[str, str | int | bool | Callable[..., Any]] = {
            "layout_optimization": channels_last,
            "force_layout_optimization": channels_last,
            "triton.cudagraphs": cuda_graphs,
        }
        # Inductor would have fp32 products rounded, and says so in a bf16 run as well
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")

    def __call__(self, eager: Callable[..., T]) -> Callable[..., T]:
        """Return the function, compiled anew for every shape of its arguments."""
        works = compiled(eager, dynamic=False, options=self.options)

        def call(*arguments: Tensor | None) -> T:
            if self.works:
                if self.cuda_graphs:
                    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                try:
                    return self.kept(works(*arguments))
                except TorchDynamoException as error:
                    log.warning(
                        "torch.compile does not work here (%s): steps run slower; see fastlt doctor", first_line(error)
                    )
                    self.works = False
            return eager(*arguments)

        return call

    def kept(self, results: T) -> T:
        """Return results that last: a CUDA graph writes its next ones where these are."""
        if not self.cuda_graphs:
            return results
        copied: T = tree_map_only(Tensor, torch.clone, results)
        return copied
