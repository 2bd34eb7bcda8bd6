"""The one logger of fastlt, and the console that its messages go to."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from rich.console import Console

from .output import one_line

log = logging.getLogger("fastlt")


class ConsoleHandler(logging.Handler):
    """A handler that prints messages as they are, above any progress bar, and each warning only once."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        message = self.format(record)
        if record.levelno >= logging.WARNING:
            if message in self.warned:
                return
            self.warned.add(message)
        self.console.print(one_line(message), markup=False, highlight=False, soft_wrap=True)


def configure_logging(console: Console) -> None:
    """Send fastlt's messages to the console."""
    log.handlers[:] = [ConsoleHandler(console)]
    log.setLevel(logging.INFO)


@contextlib.contextmanager
def only(level: int) -> Iterator[None]:
    """Log nothing below a level inside a block whose messages another process or call has already logged."""
    before = log.level
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def name_some(names: Sequence[object], most: int = 5, separator: str = ", ") -> str:
    """Return the first few names and the number of the others, for a message."""
    shown = separator.join(map(str, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
