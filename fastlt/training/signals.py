"""Stopping on a signal: the step is finished, everything is saved, then training ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ..run import Run


class InterruptedTrainingError(Exception):
    """Training stopped on a signal, after saving everything needed to go on."""

    def __init__(self, run: Run, signum: int, step: int, num_steps: int) -> None:
        self.run, self.signum = run, signum
        super().__init__(
            f"stopped by {signal.Signals(signum).name} at step {step} of {num_steps}; everything is saved. "
            f"Go on with: fastlt train --resume --out {run.path}"
        )


@contextlib.contextmanager
def catch_signals(*, patient: bool = False) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying.

    Args:
        patient: Take note of a second signal too, instead of letting it act as usual: torchrun passes on the signal
            that a terminal has sent to every process already.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous: dict[int, Any] = {}

    def remember(signum: int, _frame: FrameType | None) -> None:
        caught.append(signum)
        if not patient:
            signal.signal(signum, previous[signum])

    for each in (int(signal.SIGINT), int(signal.SIGTERM)):
        previous[each] = signal.signal(each, remember)
    try:
        yield caught
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
