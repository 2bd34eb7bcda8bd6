"""The arguments of every command, and how they are parsed: one line says what is wrong with them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from .config import EvaluateConfig, RebalanceConfig, TrainConfig

T = TypeVar("T")


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(Output):
    """The whole job on the embedded data set: train, rebalance, print the table, write the report."""

    seed: int = 0
    """Seed of the run."""
    out: Path | None = None
    """Run folder; by default runs/glyphs_lt/<backbone>-<time>."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipes(Output):
    """List the recipes, or print one's settings."""

    name: tyro.conf.Positional[str] = ""
    """The recipe to print; without it all are listed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor(Output):
    """Say what is installed, what works, and what to do about the rest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Train a network jointly with its classifier (stage 1)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rebalance(RunArgument, RebalanceConfig):
    """Rebalance the classifier of a trained run (stage 2); the backbone stays as it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(RunArgument, EvaluateConfig):
    """Report the accuracy of a run: many, medium, few, class mean and all, with 95 % intervals."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(RunArgument):
    """Write the report of a run: one page with the accuracies of its classifiers and the pictures that explain them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataInfo(Output):
    """Show the long tail of a data set: counts, imbalance ratio, shot groups, files that cannot be read."""

    root: tyro.conf.Positional[Path]
    """Folder with the images."""
    lists: Path | None = None
    """Folder with the list files, if not in ROOT."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSplit(Output):
    """Split class folders into train, a balanced val and a balanced test, as list files; nothing is moved."""

    root: tyro.conf.Positional[Path]
    """Folder with one folder of images a class."""
    out: Path | None = None
    """Folder for train.txt, val.txt, test.txt and classes.txt; by default ROOT/lists."""
    val_per_class: int = 20
    """Val images a class; a small class keeps most of its images in train."""
    test_per_class: int = 50
    """Test images a class; 0 writes no test list."""
    seed: int = 0
    """Seed of the choice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSynth:
    """Write a made-up long-tailed set of glyph images of any shape, to test speed and scale."""

    out: tyro.conf.Positional[Path]
    """Folder to write to."""
    classes: int
    """Number of classes."""
    images: int
    """Number of training images."""
    max: int
    """Training images of the largest class."""
    min: int
    """Training images of the smallest class."""
    size: int = 64
    """Side of the square images, pixels."""
    val_per_class: int = 2
    """Val images a class."""
    test_per_class: int = 0
    """Test images a class."""
    seed: int = 0
    """Seed of the images."""
    num_threads: int | None = None
    """Worker processes; by default the number of processors, at most 16."""


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
        message = message.removeprefix(f"Error parsing {command.__name__}: ").rstrip(".")
        raise ValueError(f"{message}; see fastlt {name} --help") from None


def boxed_message(text: str) -> str:
    """Return the first paragraph of a message that tyro has framed, with lines or, on a plain terminal, with dashes."""
    lines = [line.strip(" │") for line in text.splitlines()]
    body = lines[1 if text.startswith("╭") else 2 :]
    return " ".join(itertools.takewhile(lambda line: not set(line) <= set("─-╰╯"), body))
