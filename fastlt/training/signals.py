"""Stopping on a signal, after the step is finished and the state is saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ..run import Run


class InterruptedTrainingError(Exception):
    """Training stopped on a signal, after saving everything needed to continue."""

    def __init__(self, run: Run, signum: int, step: int, num_steps: int) -> None:
        self.run, self.signum = run, signum
        super().__init__(
            f"stopped by {signal.Signals(signum).name} at step {step} of {num_steps}; everything is saved. "
            f"Continue with: fastlt train --resume --out {run.path}"
        )


@contextlib.contextmanager
def catch_signals(*, patient: bool = False) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list inside a block.

    Args:
        patient: Collect a second signal as well, since torchrun repeats the signal that a terminal sends to every
            process; otherwise a second signal acts as usual.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    previous: dict[int, Any] = {}

    def collect(signum: int, _frame: FrameType | None) -> None:
        signals.append(signum)
        if not patient:
            signal.signal(signum, previous[signum])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        previous[number] = signal.signal(number, collect)
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
