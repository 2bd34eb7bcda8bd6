"""A loader's copies and crops beside the training: on a stream of their own, one batch ahead."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .base import Batch


def one_ahead(batches: Generator[Batch, None, None], device: torch.device) -> Generator[Batch, None, None]:
    """Yield a loader's batches, on a GPU one ahead and beside the training; elsewhere as they come.

    Args:
        batches: Starts copies and kernels on the current stream; closed with the result.
        device: Where the batches go.
    """
    return batches if device.type != "cuda" else _SideStream(device).run(batches)


@functools.cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream beside a device's own: memory that is freed on a stream is given out there only."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _Made(NamedTuple):
    """A batch, and the event after which it is there; or what came instead of one."""

    batch: Batch | None
    ready: torch.cuda.Event | None = None
    error: Exception | None = None


class _SideStream:
    """The order of events between the stream that makes batches and the current one, which trains on them.

    - The trainer's stream waits for the event of its batch; the host does not.
    - A batch's memory is marked as used by the trainer's stream, so that it is not given out before that is done.
    - Pinned memory is not written again before its copy is done: PyTorch gives it out anew only after an event on the
      stream that copied, which is this one.
    - The host starts the making of batch n + 1 when n is asked for, and waits until step n - 2 is done, if need be.
      Otherwise it could run any number of steps ahead, each with a batch in memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = _stream_of(device)

    def run(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        """Yield the batches. An error in the making of one is raised when that one is asked for."""
        self.stream.wait_stream(self.current())  # which may still write what the batches are made of
        steps: deque[torch.cuda.Event] = deque()
        ahead: deque[_Made] = deque()
        try:
            ahead.append(self.make(batches))
            while (made := ahead.popleft()).batch is not None:
                ahead.append(self.make(batches))
                yield self.hand_over(made)
                end = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                steps.append(self.current().record_event(end))
                if len(steps) == 2:
                    steps.popleft().synchronize()
            if made.error is not None:
                raise made.error
        finally:
            batches.close()
            self.current().wait_stream(self.stream)  # which may still read what the loader frees

    def make(self, batches: Generator[Batch, None, None]) -> _Made:
        """Start the next batch on the side stream."""
        try:
            with torch.cuda.stream(self.stream):
                batch = next(batches, None)
                return _Made(batch, None if batch is None else self.stream.record_event())
        except Exception as error:  # the batch before is still to be handed over
            return _Made(None, error=error)

    def hand_over(self, made: _Made) -> Batch:
        """Return a batch that the current stream may use."""
        assert made.batch is not None
        assert made.ready is not None
        self.current().wait_event(made.ready)
        for part in made.batch:
            if isinstance(part, Tensor):
                part.record_stream(self.current())
        return made.batch

    def current(self) -> torch.cuda.Stream:
        """Return the stream on which the caller computes."""
        return torch.cuda.current_stream(self.device)
