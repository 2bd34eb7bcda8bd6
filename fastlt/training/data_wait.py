"""The share of training time spent waiting for images."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from ..data.loaders.base import Batch
from ..data.loaders.loader import Loader
from ..runtime.process import StoppedError
from ..runtime.signals import Signals


class DataWait:
    """The share of an epoch's training time in which this process waits for its batches.

    On a CPU this is the time in the loader. On a GPU the host's wait matters only while the GPU is idle. So two events
    on the stream enclose every fetch, and the time between them is what training loses to missing images, and to
    copies and crops that are not done in time. The events are read at log steps, which wait for the GPU anyway.

    Args:
        device: The device that trains on the batches.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.fetches: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Start the clock, after validation."""
        self.waited_s = 0.0
        self.begin_s = time.perf_counter()

    def watch(self, loader: Loader, signals: Signals) -> Iterator[Batch]:
        """Yield the loader's batches, timing each fetch, until the last one or a signal while one is awaited."""
        batches = iter(loader)
        while True:
            try:
                with signals.waiting():
                    batch = self.timed_next(batches)
            except StoppedError:
                return
            if batch is None:
                return
            yield batch

    def timed_next(self, batches: Iterator[Batch]) -> Batch | None:
        """Return the next batch, or None after the last one."""
        if self.device.type != "cuda":
            begin_s = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - begin_s
            return batch
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record(torch.cuda.current_stream(self.device))
        batch = next(batches, None)
        after.record(torch.cuda.current_stream(self.device))
        self.fetches.append((before, after))
        return batch

    def read(self) -> None:
        """Add the fetches up to the last step, which the device must have finished."""
        self.waited_s += sum(before.elapsed_time(after) for before, after in self.fetches) / 1000
        self.fetches.clear()

    def share(self) -> float:
        """Return the share of the epoch so far, 0 to 1, as of the last `read`."""
        return min(1.0, self.waited_s / max(time.perf_counter() - self.begin_s, 1e-9))
