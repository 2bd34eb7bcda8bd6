"""The loader for a set that fits into memory: images are decoded once, and batches resampled from memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ... import _C
from ...runtime.log import log
from .base import Batch, PlannedLoader, ahead
from .plan import Plan, StandIns, Work, read_or_reason

_DEPTH = 2
_BLOCK = 32  # images per task: handing a task to a thread costs as much as decoding a small image
_ANNOUNCE_FROM_BYTES = 1_000_000_000


class MemoryLoader(PlannedLoader):
    """A loader that crops, resamples and mirrors in C++, on a thread that works ahead.

    All images are decoded by `decode_rgb`, so that the batches equal the Pillow loader's in every bit. Broken files are
    reported when everything is decoded, whether or not they are used later.
    """

    name: ClassVar[str] = "memory"

    def __init__(self, plan: Plan, *, device: torch.device, num_threads: int) -> None:
        super().__init__(plan, device=device)
        self._num_threads = num_threads
        self._images: dict[int, np.ndarray] = {}
        decode_all(plan, self.stand_ins, num_threads=num_threads, keep=self._images.__setitem__)

    def _batches(self) -> Generator[Batch, None, None]:
        for images, work in ahead(self._resampled(), depth=_DEPTH, name="fastlt-memory-loader"):
            yield self._deliver(images, work)

    def _resampled(self) -> Iterator[tuple[Tensor, Work]]:
        for position in range(len(self.plan)):
            work = self.plan.work(position, self.stand_ins)
            images = self._empty_images(len(work.ids))
            _C.resample_batch(
                [self._images[index] for index in work.ids.tolist()],
                windows=work.windows,
                boxes=work.boxes,
                flips=work.flips,
                interpolation=self.plan.interpolation,
                out=images.numpy(),
                num_threads=self._num_threads,
            )
            yield images, work

    def close(self) -> None:
        """End all iterations and free the memory."""
        super().close()
        self._images = {}


def decode_all(plan: Plan, stand_ins: StandIns, *, num_threads: int, keep: Callable[[int, np.ndarray], None]) -> None:
    """Decode a plan's samples, and the stand-ins for broken ones.

    Args:
        plan: Has the samples.
        stand_ins: Records the broken ones.
        num_threads: Threads that decode.
        keep: Called in this thread with every sample and its pixels.
    """
    num_bytes, start_s = decoded_bytes(plan), time.perf_counter()
    announced = num_bytes >= _ANNOUNCE_FROM_BYTES
    if announced:
        images = f"{len(plan.samples):,} {plan.dataset.split} images ({num_bytes / 1e9:.1f} GB)"
        log.info("decoding %s into memory; --loader dali starts at once instead", images)
    done: set[int] = set()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="fastlt-decoder") as pool:
        missing = plan.samples.tolist()
        while missing:
            broken: dict[int, str] = {}
            blocks = [missing[at : at + _BLOCK] for at in range(0, len(missing), _BLOCK)]
            for block, decoded in zip(blocks, pool.map(functools.partial(_read, plan), blocks), strict=True):
                for index, pixels in zip(block, decoded, strict=True):
                    if isinstance(pixels, str):
                        broken[index] = pixels
                    else:
                        keep(index, pixels)
                        done.add(index)
            stand_ins.mark(broken)
            missing = sorted({stand_ins.stand_in(index) for index in broken} - done)
    if announced:
        log.info("decoded them in %.0f s", time.perf_counter() - start_s)


def _read(plan: Plan, indices: list[int]) -> list[np.ndarray | str]:
    """Return the samples' pixels, or the reason for each one without pixels."""
    return [read_or_reason(plan.dataset, index) for index in indices]


def decoded_bytes(plan: Plan) -> int:
    """Return the size of all the plan's images in memory, in bytes."""
    sizes = plan.dataset.sizes[plan.samples].astype(np.int64)
    return 3 * int((sizes[:, 0] * sizes[:, 1]).sum())
