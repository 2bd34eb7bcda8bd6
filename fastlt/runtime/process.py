"""This process: whether it is the one that reports, and how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
PARENT = "FASTLT_PARENT"  # the process without which this one must not go on
PR_SET_PDEATHSIG = 1
MOST_PATIENT = 2  # signals that wait for the end of the step


class StoppedError(KeyboardInterrupt):
    """A signal arrived that ends the process."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__("interrupted")


def raise_on_signals() -> list[int]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a StoppedError, and end the process at once on a further one.

    A signal that is ignored, as nohup wants it, stays ignored.

    Returns:
        The signals that have arrived; the list grows when one does.
    """
    received: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        if received:
            end_at_once(received[0])
        received.append(signum)
        raise StoppedError(signum)

    def end_if_lost(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, StoppedError):  # raised where Python drops errors, such as in a destructor
            end_at_once(lost.exc_value.signum)
        sys.__unraisablehook__(lost)

    sys.unraisablehook = end_if_lost
    handle(stop)
    return received


def handle(action: object) -> None:
    """Set what happens on SIGINT, SIGTERM and SIGHUP, except on those that are ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, action)  # type: ignore[arg-type]


def is_writer() -> bool:
    """Return whether this process is the one that reports among those that train together."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def under_torchrun() -> bool:
    """Return whether `--gpus`, torchrun, or a launcher with the same environment variables started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def end_at_once(signum: int) -> None:
    """End the process with the status of a signal, without clean-up: what it was writing is swept at the next start."""
    if is_writer():
        os.write(2, b"fastlt: interrupted\n")
    os._exit(128 + signum)


def signal_behind(error: BaseException | None) -> BaseException | None:
    """Return the first error that a signal caused among this one and those during whose handling it was raised."""
    found = None
    while error is not None:
        found = error if hasattr(error, "signum") else found
        error = error.__cause__ or error.__context__
    return found


def end_with_parent() -> None:
    """Make this process end, however its parent ends, if its parent asks for that in the environment."""
    parent = int(os.environ.pop(PARENT, "0"))
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Signals:
    """The signals SIGINT, SIGTERM and SIGHUP of a training.

    Ctrl-C is easily pressed twice, so two of them wait for the end of the step; the third acts as it would without
    training, though never while the state is saved.

    Args:
        patient: All of them wait, since a launcher repeats those that a terminal sends to every process.

    Attributes:
        received: Those that have arrived, in order.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.received: list[int] = []
        self.saves = False

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
            self.received.append(signum)
            if len(self.received) > MOST_PATIENT and not self.patient and not self.saves:
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
    def uncut(self) -> Iterator[None]:
        """Finish a block that saves, whatever arrives."""
        self.saves = True
        try:
            yield
        finally:
            self.saves = False
