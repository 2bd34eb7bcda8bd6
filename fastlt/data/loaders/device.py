"""The loader for a set that fits into GPU memory: decoded once, and resampled there by one kernel per batch."""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ... import ops
from .base import Batch, PlannedLoader
from .memory import decode_all, decoded_bytes
from .plan import Plan, Work


class DeviceMemoryLoader(PlannedLoader):
    """A loader that crops, resamples and mirrors on the device that holds the images, so no pixel crosses the bus.

    Images are decoded as in the memory loader. Its arithmetic is repeated in float32: pixels may differ by 1 of 255 on
    a GPU, and not at all on a CPU.
    """

    name: ClassVar[str] = "device"

    def __init__(self, plan: Plan, *, device: torch.device, num_threads: int) -> None:
        super().__init__(plan, device=device)
        self._data = torch.empty(decoded_bytes(plan), dtype=torch.uint8, device=device)
        self._starts = np.full(len(plan.dataset), -1, np.int64)
        self._end = 0
        decode_all(plan, self.stand_ins, num_threads=num_threads, keep=self._keep)

    def _keep(self, index: int, pixels: np.ndarray) -> None:
        """Append an image to the memory that holds all images."""
        self._starts[index] = self._end
        flat = torch.from_numpy(pixels).reshape(-1)
        end = self._end + len(flat)
        if end > len(self._data):  # a stand-in that is not among the plan's samples
            self._data = torch.cat([self._data[: self._end], self._data.new_empty(len(flat))])
        self._data[self._end : end].copy_(flat)
        self._end = end

    def _batches(self) -> Generator[Batch, None, None]:
        for position in range(len(self.plan)):
            work = self.plan.work(position, self.stand_ins)
            yield self._deliver(self._squares(work), work)

    def _squares(self, work: Work) -> Tensor:
        """Return the images of a batch on the device: uint8 [B, S, S, 3]."""
        sizes = self.plan.dataset.sizes[work.ids]
        windows = work.windows
        if windows is None:
            windows = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        boxes = work.boxes
        if boxes is None:
            boxes = np.concatenate([np.zeros_like(windows[:, 2:]), windows[:, 2:]], axis=1)
        flips = np.zeros(len(work.ids), np.bool_) if work.flips is None else work.flips
        return ops.squares(
            self._data,
            self._moved(self._starts[work.ids]),
            self._moved(sizes[:, 0].copy()),
            windows=self._moved(windows),
            boxes=self._moved(boxes.astype(np.float32)),
            flips=self._moved(flips),
            size=self.plan.size,
            interpolation=self.plan.interpolation,
        )

    def close(self) -> None:
        """End all iterations and free the memory."""
        super().close()
        self._data = self._data.new_empty(0)
