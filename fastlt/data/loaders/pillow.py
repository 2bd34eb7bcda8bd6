"""The loader that needs nothing but Pillow: worker processes decode and resample whole batches."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ... import _C
from .base import Batch, PlannedLoader, Tuning
from .plan import Plan, StandIns, Work, read_or_reason


class _Result(NamedTuple):
    images: Tensor
    work: Work
    broken: dict[int, str]


class _Batches(Dataset[_Result | ValueError]):
    """The batches of a plan by position; one process makes a whole batch, so that nothing depends on their number."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stand_ins = StandIns(plan.dataset)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, position: int) -> _Result | ValueError:
        """Make a batch; return an error that the user can fix, since the DataLoader would bury its message."""
        try:
            return self._make(position)
        except ValueError as error:
            return error

    def _make(self, position: int) -> _Result:
        broken: dict[int, str] = {}
        size = self._plan.size
        while True:
            work = self._plan.work(position, self._stand_ins)
            images = torch.empty((len(work.ids), size, size, 3), dtype=torch.uint8)
            new: dict[int, str] = {}
            for slot, index in enumerate(work.ids.tolist()):
                pixels = read_or_reason(self._plan.dataset, index)
                if isinstance(pixels, str):
                    new[index] = pixels
                    continue
                # One image at a time: a batch of decoded photographs can be gigabytes
                here = slice(slot, slot + 1)
                _C.resample_batch(
                    [pixels],
                    windows=None if work.windows is None else work.windows[here],
                    boxes=None if work.boxes is None else work.boxes[here],
                    flips=None if work.flips is None else work.flips[here],
                    interpolation=self._plan.interpolation,
                    out=images[here].numpy(),
                )
            if not new:
                return _Result(images, work, broken)
            broken |= new
            self._stand_ins.reasons.update(new)


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_signals(_worker: int) -> None:
    """Leave signals that reach the whole process group to the parent, which saves its state and stops the workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class PillowLoader(PlannedLoader):
    """A loader that decodes with Pillow and resamples in C++, in processes that work ahead."""

    name: ClassVar[str] = "pillow"

    def __init__(self, plan: Plan, *, device: torch.device, tuning: Tuning) -> None:
        super().__init__(plan, device=device)
        self._tuning = tuning

    def _batches(self) -> Generator[Batch, None, None]:
        workers = DataLoader(
            _Batches(self.plan),
            batch_size=None,
            shuffle=False,
            num_workers=min(self._tuning.num_threads, max(1, len(self.plan))),
            prefetch_factor=self._tuning.prefetch,
            pin_memory=self.device.type == "cuda",
            # Otherwise the workers' seed would come from the global generator, and the run would depend on the loader
            generator=torch.Generator(),
            collate_fn=_unchanged,
            worker_init_fn=_ignore_signals,
        )
        results = iter(workers)
        try:
            for result in results:
                if isinstance(result, ValueError):
                    raise result
                self.stand_ins.mark(result.broken)
                yield self._deliver(result.images, result.work)
        except (ConnectionError, EOFError) as error:
            # A worker was killed while it handed over a batch
            raise RuntimeError("DataLoader worker exited unexpectedly") from error
        finally:
            # An error's traceback keeps the iterator alive, and with it the workers
            results._shutdown_workers()  # type: ignore[attr-defined]
