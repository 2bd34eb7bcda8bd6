"""The process's output: what is printed of files and arguments, and output that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

OUTPUT = "standard output"
COLUMNS, LEAST_COLUMNS = 80, 20
MOST = 4000  # characters of a message
# Control characters other than tab and newline, what turns the direction of text, and parts of no character
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, most: int = MOST) -> str:
    r"""Return text that a terminal shows as it is: unprintable characters as escapes, a long text without its middle.

    Args:
        text: Any text, such as a message with a file's name.
        most: Characters to keep of a longer one.

    Example:
        >>> from fastlt.runtime.output import printable
        >>> print(printable("red: \x1b[31m"))
        red: \x1b[31m
    """
    if len(text) > most:
        text = f"{text[: most // 2]} [{len(text) - most // 2 * 2:,} characters] {text[-(most // 2) :]}"
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def quoted(path: Path | str) -> str:
    """Return a path as it is typed in a command."""
    return shlex.quote(str(path))


def one_line(text: str) -> str:
    """Return printable text without line breaks."""
    return printable(text).replace("\n", r"\n")


class Terminal(Console):
    """A console that prints strings as they are, without markup, and safely whatever is in them."""

    def __init__(self, **settings: Any) -> None:
        columns = os.environ.get("COLUMNS", "")
        if columns.isdigit() and int(columns) < LEAST_COLUMNS:
            settings = {"width": COLUMNS, **settings}
        super().__init__(markup=False, highlight=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a string to print, which may come from a file or an argument."""
        return super().render_str(printable(text), **settings)

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print as rich does; an error names the output."""
        with writing_output():
            super().print(*objects, **settings)

    def on_broken_pipe(self) -> None:
        """Leave a reader that has gone to the command line; rich would end the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@contextlib.contextmanager
def writing_output() -> Iterator[None]:
    """Name standard output in the errors of a block that writes to it.

    Raises:
        OSError: It cannot be written; what it has not taken is dropped.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = OUTPUT
            with contextlib.suppress(OSError), open(os.devnull, "w") as nothing:  # noqa: PTH123
                os.dup2(nothing.fileno(), sys.stdout.fileno())  # otherwise it fails again when the interpreter ends
        raise


def prepare_output() -> None:
    """Print what the terminal's encoding lacks as escapes, and give what is opened no number of a closed stream."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what was printed."""
    if sys.stdout is not None:
        with writing_output():
            sys.stdout.flush()
