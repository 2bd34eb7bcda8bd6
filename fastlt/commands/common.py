"""What all commands share: common arguments, parsing with help, and output."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import itertools
import re
import sys
import textwrap
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from ..config import Config, TrainConfig
from ..config.base import RENAMED, File, Folder
from ..runtime.log import log
from ..runtime.output import Terminal, one_line, writing_output

if TYPE_CHECKING:
    from ..evaluation.choice import Choice
    from ..run import Run

T = TypeVar("T")

console = Terminal()

ONE_DASH = re.compile(r"-(?!inf$|nan$|infinity$)[A-Za-z][A-Za-z-]+")  # a flag's name behind one dash, no number

EMPTY_DEFAULTS = ("None", "''", "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """Where a command's output goes besides the terminal."""

    json: File | None = None
    """Also write the output to this JSON file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPlace:
    """Where the data of a run are, if they are not where it was trained."""

    data_root: Folder | None = None
    """Where the run's data are now, if they were moved or copied; the run remembers it once they are found to be the
    same."""
    lists: Folder | None = None
    """Where its list files are now, if they are not in --data-root."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunArgument(DataPlace, Output):
    """Which run a command is about."""

    run: tyro.conf.Positional[Annotated[str, "[RUN]"]] = ""
    """Run folder; by default the last one trained here (runs/last)."""


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(one_line(text), soft_wrap=True)


def open_run(path: str | Path, data_root: Path | None, lists: Path | None) -> Run:
    """Open the run that a command names, or the last one; its data are taken from their new place if that is given."""
    from ..run import Run

    run = Run.open(Path(path) if path else None)
    return run if data_root is None and lists is None else run.relocated(data_root, lists)


def choice_of(run: Run) -> Choice | None:
    """Return the choice among methods that a run goes by; None if there is none, or it cannot be read."""
    from ..evaluation.choice import path_of, read_choice

    if not path_of(run).is_file():
        return None
    import torch

    from ..features.store import FeatureStore

    try:
        return read_choice(FeatureStore(run, device=torch.device("cpu")))
    except ValueError as error:
        log.warning("%s", error)
        return None


def settings_of(parsed: Config, kind: type[T]) -> T:
    """Return the settings of one kind among a command's arguments."""
    return kind(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def print_results(results: Any, title: str, path: Path | None) -> None:
    """Print a table of results, and write them as JSON if a file is given."""
    console.print(results.table(title))
    write_output(path, results.to_json())


def write_output(path: Path | None, value: Any) -> None:
    """Write a command's output as JSON if a file is given."""
    if path is not None:
        from ..files import write_json

        write_json(path, value)


def parse(command: type[T], argv: Sequence[str], name: str, default: T | None = None) -> T:
    """Parse arguments into a dataclass, starting from `default`.

    Raises:
        ValueError: A flag is unknown (the message names the nearest) or a value has the wrong form.
    """
    assert dataclasses.is_dataclass(command)
    check_flags(command, argv, name)
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), writing_output():
            parsed = tyro.cli(
                with_help(command),
                prog=f"fastlt {name}",
                args=positionals_last(command, argv),
                default=None if default is None else with_help(command)(**vars(default)),
            )
            return without_help(parsed, command)
    except SystemExit as error:
        if not error.code:
            raise
        message = re.sub(r"^Error parsing (\w+: )?", "", boxed_message(stderr.getvalue())).rstrip(".")
        raise ValueError(f"{message}; see fastlt {name} --help") from None


def check_flags(command: type[Any], argv: Sequence[str], name: str) -> None:
    """Raise a ValueError that names the nearest flag if an argument looks like a flag and is none of the command's."""
    assert dataclasses.is_dataclass(command)
    flags = [*flag_widths(command), "--help"]
    for argument in argv:
        given = argument.partition("=")[0].replace("_", "-")
        flag = f"-{given}" if ONE_DASH.fullmatch(given) else given
        if flag.startswith("--") and len(flag) > 2 and (flag not in flags or flag != given):
            new_names = {f"--{old}".replace("_", "-"): f"--{new}".replace("_", "-") for old, new in RENAMED.items()}
            bare = {f"--{name}": name.upper() for name in positionals(command)}
            nearest = [new_names[flag]] if flag in new_names else difflib.get_close_matches(flag, [*flags, *bare], n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            if nearest and nearest[0] in bare:
                hint = f"{bare[nearest[0]]} is given without a flag; "
            raise ValueError(f"{given}: unknown flag; {hint}see fastlt {name} --help")


def positionals_last(command: type[Any], argv: Sequence[str]) -> list[str]:
    """Return arguments with those of no flag behind the others, where tyro takes several of them as one value."""
    widths, rest = flag_widths(command), list(argv)
    flags, positionals = [], []
    while rest and rest[0] != "--":
        argument = rest.pop(0)
        if not re.match("-[A-Za-z-]", argument):
            positionals.append(argument)
            continue
        flags.append(argument)
        for _ in range(widths.get(argument, 0)):
            if not rest or rest[0].startswith("--"):
                break
            flags.append(rest.pop(0))
    positionals += rest[1:]
    return [*flags, *(["--", *positionals] if positionals else [])]


def flag_widths(command: type[Any]) -> dict[str, int]:
    """Return the flags of a dataclass and of those inside it, and how many values each takes."""
    widths: dict[str, int] = {}
    bare = positionals(command)
    for name, hint in typing.get_type_hints(command).items():
        if name in bare:
            continue
        if dataclasses.is_dataclass(hint):
            widths |= flag_widths(hint)  # type: ignore[arg-type]
            continue
        flag = name.replace("_", "-")
        widths[f"--{flag}"] = width(hint)
        if hint is bool:
            widths[f"--no-{flag}"] = 0
    return widths


def positionals(command: type[Any]) -> list[str]:
    """Return the names of the arguments that are given without a flag."""
    hints = typing.get_type_hints(command, include_extras=True)
    return [name for name, hint in hints.items() if tyro.conf.Positional in typing.get_args(hint)]


def width(hint: Any) -> int:
    """Return how many values a flag of this type takes at most."""
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is tuple:
        return sys.maxsize if Ellipsis in parts else len(parts)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return max(map(width, parts))
    return 0 if hint is bool else 1


@functools.cache
def with_help(command: type[Any]) -> type[Any]:
    """Return a dataclass with the same fields and the help that tyro shows for them.

    By itself tyro keeps the line breaks of an indented docstring, and prints None and empty defaults, which the
    docstring explains. A dataclass among the fields gets its own panel, named in capitals, and its flags no prefix.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    texts = docstrings(command)
    fields = []
    for field in dataclasses.fields(command):
        hint = hints[field.name]
        copy = dataclasses.field(default=field.default, default_factory=field.default_factory, kw_only=True)
        if dataclasses.is_dataclass(hint):
            panel: Any = with_help(hint)  # type: ignore[arg-type]
            title = tyro.conf.arg(name=field.name.upper())
            copy = dataclasses.field(default_factory=panel, kw_only=True)
            fields.append((field.name, Annotated[panel, title, tyro.conf.OmitArgPrefixes], copy))
            continue
        argument = tyro.conf.arg(
            help=field.metadata.get("help", texts.get(field.name)),
            metavar=metavar(hint),
            help_behavior_hint=lambda default: "" if default in EMPTY_DEFAULTS else f"(default: {default})",
        )
        fields.append((field.name, Annotated[hint, argument], copy))
    return dataclasses.make_dataclass(
        command.__name__, fields, bases=(command,), namespace={"__doc__": command.__doc__}, frozen=True
    )


def without_help(parsed: Any, command: type[T]) -> T:
    """Return an instance of `with_help(command)` as an instance of `command`."""
    hints = typing.get_type_hints(command)
    values = {
        name: without_help(value, hints[name]) if dataclasses.is_dataclass(value) else value
        for name, value in vars(parsed).items()
    }
    return command(**values)


def docstrings(command: type[Any]) -> dict[str, str]:
    """Return the docstring of every field, on one line; a field without one has that of `TrainConfig`."""
    texts = {} if command is TrainConfig else docstrings(TrainConfig)
    for kind in filter(dataclasses.is_dataclass, reversed(command.__mro__)):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        for field, text in itertools.pairwise(definition.body):  # type: ignore[attr-defined]
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(field.target, ast.Name):
                texts[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return texts


def metavar(hint: Any) -> str | None:
    """Return what the help writes for a value: the string in the type's annotation, N or NUMBER.

    None leaves the choice to tyro, for flags without a value and for literals.
    """
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return next((part for part in parts if isinstance(part, str)), None) or metavar(parts[0])
    if type(None) in parts:
        (part,) = (part for part in parts if part is not type(None))
        return metavar(part)
    if typing.get_origin(hint) is tuple:
        return " ".join("..." if part is Ellipsis else str(metavar(part)) for part in parts)
    return {int: "N", float: "NUMBER"}.get(hint)


def boxed_message(text: str) -> str:
    """Return the first paragraph of a message that tyro printed in a frame of lines or, on a plain terminal, dashes."""
    lines = [line.strip(" │") for line in text.splitlines()]
    body = lines[1 if text.startswith("╭") else 2 :]
    return " ".join(itertools.takewhile(lambda line: not set(line) <= set("─-╰╯"), body))
