"""Signals that wait until a step is finished and its state is saved."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from .process import SIGNALS, StoppedError

PATIENCE_S = 2.0


class Signals:
    """The signals SIGINT, SIGTERM and SIGHUP of a training.

    Ctrl-C is easily pressed several times, so what arrives soon after the first signal waits with it for the end of the
    step; a later one acts as it would without training, though never while the state is saved. Between two steps there
    is nothing to wait for: a signal ends the wait for a batch.

    Args:
        patient: All of them wait, since a launcher repeats those that a terminal sends to every process.

    Attributes:
        received: Those that have arrived, in order.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.received: list[int] = []
        self.first_at = 0.0
        self.saves = False
        self.waits = False

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Collect signals inside a block, except those that are ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous: dict[int, Any] = {}

        def restore() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        def collect(signum: int, _frame: FrameType | None) -> None:
            if not self.received:
                self.first_at = time.monotonic()
            self.received.append(signum)
            if self.waits:
                self.waits = False
                raise StoppedError(signum)
            late = time.monotonic() > self.first_at + PATIENCE_S
            if late and not self.patient and not self.saves:
                restore()
                signal.raise_signal(signum)

        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, collect)
        try:
            yield
        finally:
            restore()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Raise a StoppedError in a block once a signal has arrived, unless all processes must stop together."""
        self.waits = not self.patient
        try:
            if self.waits and self.received:
                raise StoppedError(self.received[0])
            yield
        finally:
            self.waits = False

    @contextlib.contextmanager
    def uncut(self) -> Iterator[None]:
        """Finish a block that saves, whatever arrives."""
        self.saves = True
        try:
            yield
        finally:
            self.saves = False
