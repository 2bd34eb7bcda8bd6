"""Compile steps before they are timed, several at once, so that the compiler's cache has them when they are timed."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from fastlt.runtime.log import first_line
from fastlt.runtime.machine import resolve_threads
from fastlt.timing.peers import PEERS
from fastlt.timing.step import algorithms_of, build, settings

from .candidates import change_of, inductor_of

GIB_A_PROCESS, GIB_OF_CHECKS = 24, 16  # GPU memory for 256 images of 224 pixels, and for the checks beside it


@dataclass(frozen=True)
class Step:
    """One training step to be timed: a network, a variant of `fastlt.timing.step` and a rewriting, or none."""

    backbone: str
    variant: str
    candidate: str = ""

    @property
    def is_compiled(self) -> bool:
        """Whether there is anything to compile."""
        return (PEERS[self.variant] if self.variant in PEERS else settings(self.variant)).compile


def compile_all(
    steps: Sequence[Step], device: str, batch_size: int, image_size: int
) -> Iterator[tuple[Step, float, str]]:
    """Yield each compiled step with the seconds that it took and the error, empty if there was none.

    Each has a process of its own, since an interpreter compiles one step at a time.
    """
    threads = resolve_threads(None)
    at_once = min(max(1, threads // 2), room(device))
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(max(1, threads // at_once))
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=spawning, max_tasks_per_child=1) as pool:
        tasks = {pool.submit(compile_one, step, device, batch_size, image_size): step for step in steps}
        for task in as_completed(tasks):
            error = task.exception()
            yield tasks[task], 0.0 if error else task.result(), first_line(error) if error else ""


def room(device: str) -> int:
    """Return how many steps fit the device's memory at once."""
    if device == "cpu":
        return 1
    free, _ = torch.cuda.mem_get_info()
    return max(1, (free - (GIB_OF_CHECKS << 30)) // (GIB_A_PROCESS << 30))


def compile_one(step: Step, device: str, batch_size: int, image_size: int) -> float:
    """Run a training step once, which compiles it; return the seconds that it took."""
    began = time.perf_counter()
    with algorithms_of(step.variant), inductor_of(step.candidate):
        torch.backends.cudnn.benchmark = False  # cuDNN times its algorithms later, when nothing else runs
        run, _ = build(
            step.backbone,
            step.variant,
            device=torch.device(device),
            batch_size=batch_size,
            image_size=image_size,
            color_jitter=True,
            change=change_of(step.candidate),
        )
        run().item()
    return time.perf_counter() - began
