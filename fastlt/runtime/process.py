"""This process: whether it is the one that reports, and how it ends.

It imports next to nothing, since a signal that arrives before `raise_on_signals` is called ends in a traceback.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
PARENT = "FASTLT_PARENT"  # the process without which this one must not go on
PR_SET_PDEATHSIG = 1


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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher blocks them until here
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
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
