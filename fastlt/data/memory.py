"""The loader of a set that fits into memory: every image is decoded once, batches are resampled from there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import _C
from .batch import Batch, PlannedLoader, ahead
from .plan import Plan, UnreadableImageError, Work, read_image

logger = logging.getLogger(__name__)

_DEPTH = 2
# Control groups, versions 2 and 1: where limit and usage stand, and what of the usage is file cache that yields.
_CGROUP_FILES = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_REPORT_FROM_S = 2.0


class MemoryLoader(PlannedLoader):
    """Crops, resamples and mirrors in C++, on a thread that works ahead.

    The images are decoded by `decode_rgb`, DALI or not, so that the batches equal the Pillow loader's in every bit. A
    broken file is named when everything is decoded, whether or not it is asked for later.
    """

    name: ClassVar[str] = "memory"

    def __init__(self, plan: Plan, *, device: torch.device, num_threads: int) -> None:
        super().__init__(plan, device=device)
        self._num_threads = num_threads
        self._images: dict[int, np.ndarray] = {}
        self._decode(plan.samples)

    def _decode(self, samples: np.ndarray) -> None:
        """Decode the samples, and those that have to stand in for broken ones."""
        started = time.perf_counter()
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="fastlt-decoder") as pool:
            missing = samples.tolist()
            while missing:
                broken: dict[int, str] = {}
                for index, found in zip(missing, pool.map(self._read, missing, chunksize=1), strict=True):
                    if isinstance(found, str):
                        broken[index] = found
                    else:
                        self._images[index] = found
                self.stand_ins.mark(broken)
                stand_ins = {self.stand_ins.stand_in(index) for index in broken}
                missing = sorted(stand_ins - self._images.keys())
        seconds = time.perf_counter() - started
        if seconds >= _REPORT_FROM_S:
            num_bytes = sum(image.nbytes for image in self._images.values())
            logger.info(
                "decoded %s %s images into memory: %.2f GB, %.1f s",
                f"{len(self._images):,}",
                self.plan.dataset.split,
                num_bytes / 1e9,
                seconds,
            )

    def _read(self, index: int) -> np.ndarray | str:
        """Return a sample's pixels, or why there are none."""
        try:
            return read_image(self.plan.dataset, index)
        except UnreadableImageError as error:
            return str(error)

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
                out=images.numpy(),
                num_threads=self._num_threads,
            )
            yield images, work

    def close(self) -> None:
        """End all iterations and give back the memory."""
        super().close()
        self._images = {}


def available_bytes() -> int:
    """Return the memory that this process may still take: what the machine and the control group leave free."""
    free = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        free.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    for folder, limit, usage, cache in _CGROUP_FILES:
        try:
            limit_bytes, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if limit_bytes != "max":
            free.append(max(0, int(limit_bytes) - used + int(stat.get(cache, 0))))
    return min(free)


def decoded_bytes(plan: Plan) -> int:
    """Return the size of all the plan's images in memory."""
    sizes = plan.dataset.sizes[plan.samples].astype(np.int64)
    return 3 * int((sizes[:, 0] * sizes[:, 1]).sum())
