"""torch.compile, without what holds up the end of a process."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

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
    """Wait for a process as ``Popen.wait`` does, but not for long; its own children notice its end by themselves."""
    try:
        return subprocess.Popen.wait(process, EXIT_S if timeout is None else min(timeout, EXIT_S))
    except subprocess.TimeoutExpired:
        process.kill()
        return subprocess.Popen.wait(process)
