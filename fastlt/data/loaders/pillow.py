"""The loader that needs nothing but Pillow: worker processes decode and resample whole batches."""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ... import _C
from .base import Batch, PlannedLoader, Tuning
from .plan import Plan, StandIns, Work, read_or_reason
from .workers import Workers


class _Made(NamedTuple):
    """What comes with a batch's pixels."""

    work: Work
    broken: dict[int, str]


class PillowLoader(PlannedLoader):
    """A loader that decodes with Pillow and resamples in C++, in processes that work ahead.

    One process makes a whole batch, so that nothing depends on their number.
    """

    name: ClassVar[str] = "pillow"

    def __init__(self, plan: Plan, *, device: torch.device, tuning: Tuning) -> None:
        super().__init__(plan, device=device)
        self._tuning = tuning

    def _batches(self) -> Generator[Batch, None, None]:
        if not len(self.plan):
            return
        workers = Workers(
            _Maker(self.plan),
            num_batches=len(self.plan),
            num_bytes=self.plan.batch_size * 3 * self.plan.size**2,
            num_workers=self._tuning.num_threads,
            depth=self._tuning.prefetch,
        )
        with workers:
            for pixels, made in workers:
                self.stand_ins.mark(made.broken)
                images = self._empty_images(len(made.work.ids))
                images.view(-1).copy_(torch.from_numpy(pixels[: images.numel()]))
                yield self._deliver(images, made.work)


class _Maker:
    """Makes the batches of a plan, in one of the processes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stand_ins = StandIns(plan.dataset)

    def __call__(self, position: int, pixels: NDArray[np.uint8]) -> _Made:
        """Fill memory with the images of a batch, uint8 [B, S, S, 3]."""
        broken: dict[int, str] = {}
        size = self._plan.size
        while True:
            work = self._plan.work(position, self._stand_ins)
            images = pixels[: len(work.ids) * size * size * 3].reshape(len(work.ids), size, size, 3)
            new: dict[int, str] = {}
            for slot, index in enumerate(work.ids.tolist()):
                decoded = read_or_reason(self._plan.dataset, index)
                if isinstance(decoded, str):
                    new[index] = decoded
                    continue
                # One image at a time: a batch of decoded photographs can be gigabytes
                here = slice(slot, slot + 1)
                _C.resample_batch(
                    [decoded],
                    windows=None if work.windows is None else work.windows[here],
                    boxes=None if work.boxes is None else work.boxes[here],
                    flips=None if work.flips is None else work.flips[here],
                    interpolation=self._plan.interpolation,
                    out=images[here],
                )
            if not new:
                return _Made(work, broken)
            broken |= new
            self._stand_ins.reasons.update(new)
