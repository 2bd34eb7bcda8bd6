"""What commands share: arguments, how they are parsed, and what is printed."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from rich.console import Console

from ..config import Config

if TYPE_CHECKING:
    from ..run import Run

T = TypeVar("T")

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """Where a command's output goes, besides the terminal."""

    json: Path | None = None
    """Also write what is printed to this JSON file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunArgument(Output):
    """Which run a command is about."""

    run: tyro.conf.Positional[str] = ""
    """Run folder; by default the last one trained here (runs/last)."""


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def open_run(argument: RunArgument) -> Run:
    """Open the run that a command names, or the last one."""
    from ..run import Run

    return Run.open(Path(argument.run) if argument.run else None)


def narrow(parsed: Config, kind: type[T]) -> T:
    """Return the part of a command's arguments that makes up its settings."""
    return kind(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def print_results(results: Any, title: str, path: Path | None) -> None:
    """Print a table of results and write them as JSON where asked."""
    console.print(results.table(title))
    write_output(path, results.to_json())


def write_output(path: Path | None, value: Any) -> None:
    """Write a command's JSON output where it was asked for."""
    if path is not None:
        from ..checkpoint import write_json

        write_json(path, value)


def parse(command: type[T], argv: Sequence[str], name: str, default: T | None = None) -> T:
    """Parse arguments into a dataclass, starting from ``default``.

    Raises:
        ValueError: A flag is unknown (the message names the nearest) or a value has the wrong form.
    """
    assert dataclasses.is_dataclass(command)
    flags = {f"--{field.name.replace('_', '-')}": field for field in dataclasses.fields(command)}
    known = [*flags, *(f"--no-{flag[2:]}" for flag, field in flags.items() if field.type == "bool"), "--help"]
    for argument in argv:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and len(flag) > 2 and flag not in known:
            nearest = difflib.get_close_matches(flag, known, n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise ValueError(f"{flag}: unknown flag; {hint}see fastlt {name} --help")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: T = tyro.cli(command, prog=f"fastlt {name}", args=list(argv), default=default)  # type: ignore[assignment]
            return parsed
    except SystemExit as error:
        if not error.code:
            raise
        message = boxed_message(said.getvalue())
        message = message.removeprefix(f"Error parsing {command.__name__}: ").removeprefix("Error parsing ").rstrip(".")
        raise ValueError(f"{message}; see fastlt {name} --help") from None


def boxed_message(text: str) -> str:
    """Return the first paragraph of a message that tyro has framed, with lines or, on a plain terminal, with dashes."""
    lines = [line.strip(" │") for line in text.splitlines()]
    body = lines[1 if text.startswith("╭") else 2 :]
    return " ".join(itertools.takewhile(lambda line: not set(line) <= set("─-╰╯"), body))
