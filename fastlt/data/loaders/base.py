"""What every loader shares: the batch it yields, its life cycle, and work done ahead on a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...config.train import HW_DECODER_LOAD, PREFETCH
from ...runtime.device import on_device
from .plan import Plan, Replacement, StandIns, Work
from .side_stream import one_ahead

T = TypeVar("T")


class Batch(NamedTuple):
    """B images of S x S pixels; permuted to [B, 3, S, S] the images are channels_last without a copy.

    Attributes:
        images: uint8 [B, S, S, 3], on the device.
        labels: int64 [B], on the device.
        ids: int64 [B], the samples really used: a broken one is replaced by another of its class.
        jitter: float32 [B, 3], factors of brightness, contrast and saturation to apply, on the device; None leaves
            colours alone.
        order: uint8 [B], order of the three, on the device; None with `jitter`.
    """

    images: Tensor
    labels: Tensor
    ids: np.ndarray
    jitter: Tensor | None
    order: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a loader uses the machine, which changes no image. `fastlt benchmark loader --tune` finds the best values.

    Attributes:
        num_threads: Threads, or processes of the Pillow loader.
        prefetch: Batches that DALI works on at a time, or that each process keeps ready; each takes memory.
        hw_decoder_load: Share of the JPEG files that a GPU's hardware decoder takes, where it has one (A100, H100 and
            later data-centre cards); its other units decode the rest. 0.65 is DALI's own default.
    """

    num_threads: int
    prefetch: int = PREFETCH
    hw_decoder_load: float = HW_DECODER_LOAD


class PlannedLoader:
    """A loader that yields the batches of a plan; subclasses say how.

    Every iteration starts at the plan's first batch. The loader is a context manager; closing it ends its iterations
    and what they started, and may be repeated.

    Attributes:
        name: The backend.
        prefetches: Whether batches are on the device before they are asked for; else `one_ahead` does that.
        replaced: The files that could not be read so far, and their stand-ins.
    """

    name: ClassVar[str]
    prefetches: ClassVar[bool] = False

    def __init__(self, plan: Plan, *, device: torch.device) -> None:
        self.plan = plan
        self.device = device
        self.stand_ins = StandIns(plan.dataset)
        self._iterations: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()
        self._closed = False

    @property
    def replaced(self) -> list[Replacement]:
        """The files that could not be read so far, and their stand-ins."""
        return self.stand_ins.replaced

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        if self._closed:
            raise RuntimeError(f"the {self.name} loader was closed; open another one")
        iteration = self._batches() if self.prefetches else one_ahead(self._batches(), self.device)
        self._iterations.add(iteration)
        return iteration

    def _batches(self) -> Generator[Batch, None, None]:
        """Yield the batches of the plan; a `finally` ends whatever was started."""
        raise NotImplementedError

    def close(self) -> None:
        """End all iterations with their threads and processes, and free memory."""
        self._closed = True
        for iteration in list(self._iterations):
            iteration.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _empty_images(self, count: int) -> Tensor:
        """Return memory for images: uint8 [count, S, S, 3], pinned where images go to a GPU."""
        size = self.plan.size
        return torch.empty((count, size, size, 3), dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def _deliver(self, images: Tensor, work: Work) -> Batch:
        """Complete a batch and start its copy to the device, on the current stream."""
        return Batch(
            images=on_device(images, self.device),
            labels=self._moved(self.plan.dataset.labels[work.ids]),
            ids=work.ids,
            jitter=None if work.jitter is None else self._moved(work.jitter),
            order=None if work.order is None else self._moved(work.order),
        )

    def _moved(self, array: np.ndarray) -> Tensor:
        """Return an array as a tensor on the device."""
        return on_device(torch.from_numpy(array), self.device)


class _Failure(NamedTuple):
    error: BaseException


_END = object()
_ALIVE_CHECK_S = 1.0


def _next(items: queue.Queue[object], thread: threading.Thread) -> object:
    """Return the next item, as long as the thread that brings it lives."""
    while True:
        alive = thread.is_alive()
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=_ALIVE_CHECK_S if alive else 0)
        if not alive:
            raise RuntimeError(f"the thread {thread.name} ended without a word")


def ahead(source: Iterable[T], *, depth: int, name: str) -> Generator[T, None, None]:
    """Yield the items of `source`, which a thread fetches up to `depth` items ahead.

    An error in the source is raised here, after the items before it. The thread ends with the generator.
    """
    items: queue.Queue[object] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def produce() -> None:
        last: object = _END
        try:
            for item in source:
                if stopped.is_set():
                    break
                items.put(item)
        except BaseException as error:
            last = _Failure(error)
        items.put(last)

    thread = threading.Thread(target=produce, name=name, daemon=True)
    thread.start()
    try:
        while (item := _next(items, thread)) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        while thread.is_alive():
            # Makes room for the item that the thread still has to hand over
            try:
                items.get_nowait()
            except queue.Empty:
                thread.join(0.01)
