"""The `fastlt` command: parse first, import PyTorch only when a command needs it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .arguments import (
    DataInfo,
    DataSplit,
    DataSynth,
    Demo,
    Doctor,
    Evaluate,
    Rebalance,
    Recipes,
    Report,
    RunArgument,
    Train,
    parse,
)
from .config import Config, EvaluateConfig, RebalanceConfig, TrainConfig, check_choice

if TYPE_CHECKING:
    from .run import Run

T = TypeVar("T")

console = Console()
USER_ERROR = 2
TRACEBACK = "FASTLT_TRACEBACK"


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the value that ``argv`` gives a flag, before it is parsed."""
    value = None
    for index, argument in enumerate(argv):
        name, equals, rest = argument.partition("=")
        if name.replace("_", "-") == flag:
            value = rest if equals else next(iter(argv[index + 1 : index + 2]), None)
    return value


def train_config(argv: Sequence[str]) -> TrainConfig:
    """Return the settings of `fastlt train`: the recipe's or, to resume, the run's, overridden by flags."""
    from .recipes import recipe

    dataset = flag_value(argv, "--dataset")
    asks_for_help = not {"-h", "--help"}.isdisjoint(argv)
    if "--resume" in argv and not asks_for_help:
        from .run import Run

        out = flag_value(argv, "--out")
        run = Run.open(Path(out) if out else None)
        base = dataclasses.replace(run.config, out=run.path)
    elif dataset is None and flag_value(argv, "--data-root") is None and not asks_for_help:
        from .recipes import RECIPES

        raise ValueError(
            f"--dataset: missing; give one of {', '.join(RECIPES)}, or --data-root DIR for your own images"
        )
    else:
        base = recipe(dataset or "folder")
    default = Train(**{field.name: getattr(base, field.name) for field in dataclasses.fields(TrainConfig)})
    parsed = parse(Train, argv, "train", default)
    return TrainConfig(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(TrainConfig)})


def command_train(argv: Sequence[str]) -> None:
    """Run `fastlt train`."""
    config = train_config(argv)
    from .training import train

    run = train(config, console=console)
    say(f"trained: {run.path}. Rebalance its classifier with: fastlt rebalance --tau auto")


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def open_run(argument: RunArgument) -> Run:
    """Open the run that a command names, or the last one."""
    from .run import Run

    return Run.open(Path(argument.run) if argument.run else None)


def narrow(parsed: Config, kind: type[T]) -> T:
    """Return the part of a command's arguments that makes up its settings."""
    return kind(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def command_rebalance(argv: Sequence[str]) -> None:
    """Run `fastlt rebalance`."""
    parsed = parse(Rebalance, argv, "rebalance")
    run = open_run(parsed)
    from .evaluation import Results
    from .rebalancing import rebalance

    rebalance(run, narrow(parsed, RebalanceConfig))
    print_results(Results.read(run.method(parsed.method) / "results.json"), str(run.path), parsed.json)
    say(f"checkpoint: {run.method(parsed.method) / 'model.safetensors'}")


def command_evaluate(argv: Sequence[str]) -> None:
    """Run `fastlt evaluate`."""
    parsed = parse(Evaluate, argv, "evaluate")
    run = open_run(parsed)
    from .evaluation import evaluate

    print_results(evaluate(run, config=narrow(parsed, EvaluateConfig)), str(run.path), parsed.json)


def print_results(results: Any, title: str, path: Path | None) -> None:
    """Print a table of results and write them as JSON where asked."""
    console.print(results.table(title))
    write_output(path, results.to_json())


def write_output(path: Path | None, value: Any) -> None:
    """Write a command's JSON output where it was asked for."""
    if path is not None:
        from .checkpoint import write_json

        write_json(path, value)


def command_demo(argv: Sequence[str]) -> None:
    """Run `fastlt demo`."""
    parsed = parse(Demo, argv, "demo")
    from .demo import demo

    results, report = demo(seed=parsed.seed, out=parsed.out, console=console)
    print_results(results, "glyphs_lt: the same network before and after rebalancing its last layer", parsed.json)
    say(f"report with pictures: {report}")


def command_recipes(argv: Sequence[str]) -> None:
    """Run `fastlt recipes`."""
    parsed = parse(Recipes, argv, "recipes")
    from .recipes import RECIPES, recipe

    if parsed.name:
        values = recipe(parsed.name).to_json()
        console.print_json(json.dumps(values))
        write_output(parsed.json, values)
        return
    table = Table("recipe", "backbone", "epochs", "batch", "image size", "what it is for")
    rows = {}
    for name, make in RECIPES.items():
        config = make()
        rows[name] = config.to_json()
        purpose = (sys.modules[make.__module__].__doc__ or "").partition(", ")[2]
        cells = (config.backbone, config.epochs, config.batch_size, config.image_size, purpose)
        table.add_row(name, *map(str, cells))
    console.print(table)
    write_output(parsed.json, rows)


def command_doctor(argv: Sequence[str]) -> None:
    """Run `fastlt doctor`; the exit status is 1 when something is broken."""
    parsed = parse(Doctor, argv, "doctor")
    from .doctor import examine

    findings = examine()
    table = Table("what", "state", "found", "what to do")
    style = {"ok": "green", "absent": "yellow", "broken": "red"}
    for finding in findings:
        state = f"[{style[finding.state]}]{finding.state}[/]"
        table.add_row(finding.name, state, escape(finding.detail), escape(finding.advice))
    console.print(table)
    write_output(parsed.json, [dataclasses.asdict(finding) for finding in findings])
    if any(finding.state == "broken" for finding in findings):
        raise SystemExit(1)


def command_report(argv: Sequence[str]) -> None:
    """Run `fastlt report`."""
    parsed = parse(Report, argv, "report")
    run = open_run(parsed)
    from .features import FeatureStore
    from .hardware import resolve_device
    from .report import write_report

    path, results = write_report(run, FeatureStore(run, device=resolve_device("auto")))
    write_output(parsed.json, results.to_json())
    say(f"report with pictures: {path}")


def command_data_info(argv: Sequence[str]) -> None:
    """Run `fastlt data info`."""
    parsed = parse(DataInfo, argv, "data info")
    from .data.dataset import open_splits
    from .data.summary import describe

    facts = describe(open_splits(parsed.root, lists=parsed.lists))
    table = Table("split", "images", "most a class", "fewest a class", "files skipped", "decoded by Pillow")
    for name, row in facts["splits"].items():
        keys = ("num_images", "max_per_class", "min_per_class", "num_skipped")
        table.add_row(name, *(f"{row[key]:,}" for key in keys), f"{row['num_images'] - row['num_native']:,}")
    console.print(table)
    groups = ", ".join(f"{count} {name}" for name, count in facts["groups"].items())
    say(
        f"{facts['num_classes']} classes ({groups}), imbalance ratio {facts['imbalance_ratio']:.1f}, "
        f"Gini coefficient {facts['gini']:.2f}"
    )
    for end in ("largest", "smallest"):
        classes = ", ".join(f"{name} ({count:,})" for name, count in facts[end])
        say(f"{end}: {classes}")
    write_output(parsed.json, facts)


def command_data_split(argv: Sequence[str]) -> None:
    """Run `fastlt data split`."""
    parsed = parse(DataSplit, argv, "data split")
    from .data.split import split_folder

    summary = split_folder(
        parsed.root,
        parsed.out,
        val_per_class=parsed.val_per_class,
        test_per_class=parsed.test_per_class,
        seed=parsed.seed,
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in summary.num_images.items())
    say(f"{summary.num_classes} classes: {counts} images; lists in {summary.out}")
    if summary.num_reduced:
        say(f"{summary.num_reduced} small classes gave fewer images to val and test")
    root = parsed.root if parsed.out is None else parsed.out
    say(f"next: fastlt train --dataset folder --data-root {root}")
    write_output(parsed.json, dataclasses.asdict(summary) | {"out": str(summary.out)})


def command_data_synth(argv: Sequence[str]) -> None:
    """Run `fastlt data synth`."""
    parsed = parse(DataSynth, argv, "data synth")
    from rich.progress import Progress

    from .data.synth import synthesize

    total = parsed.images + parsed.classes * (parsed.val_per_class + parsed.test_per_class)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("painting", total=total)
        root = synthesize(
            parsed.out,
            num_classes=parsed.classes,
            num_images=parsed.images,
            max_count=parsed.max,
            min_count=parsed.min,
            size=parsed.size,
            val_per_class=parsed.val_per_class,
            test_per_class=parsed.test_per_class,
            seed=parsed.seed,
            num_workers=parsed.num_threads,
            progress=lambda done: bar.advance(task, done),
        )
    say(f"{total:,} images in {root}")


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "demo": (command_demo, "train and rebalance on the embedded data set, with a report: start here"),
    "train": (command_train, "stage 1: train a network on a long-tailed data set"),
    "rebalance": (command_rebalance, "stage 2: rebalance the classifier of a trained run"),
    "evaluate": (command_evaluate, "accuracy of a run: many, medium, few, all"),
    "report": (command_report, "write a run's report: a page with tables and pictures"),
    "data info": (command_data_info, "show the long tail of a data set"),
    "data split": (command_data_split, "split class folders into train, val and test lists"),
    "data synth": (command_data_synth, "write a made-up data set of any shape"),
    "recipes": (command_recipes, "list the recipes, or print one"),
    "doctor": (command_doctor, "what is installed, what works, what to do about the rest"),
}


def usage() -> str:
    """Return the text of `fastlt --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fastlt COMMAND [OPTIONS]",
            "",
            "Train image recognition on long-tailed data, then rebalance the classifier.",
            "",
            *lines,
            "",
            "fastlt COMMAND --help lists a command's options; fastlt --version prints the version.",
        ]
    )


def dispatch(argv: Sequence[str]) -> None:
    """Run the command that ``argv`` names.

    Raises:
        ValueError: There is no such command.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if argv[0] == "--version":
        import importlib.metadata

        print(f"fastlt {importlib.metadata.version('fastlt')}")
        return
    name, rest = argv[0], argv[1:]
    if name == "data":
        if not rest or rest[0] in ("-h", "--help"):
            print(usage())
            return
        name, rest = f"data {rest[0]}", rest[1:]
    check_choice("command", name, COMMANDS)
    COMMANDS[name][0](rest)


def main() -> None:
    """Entry point of the `fastlt` command: a user's mistake is one line and status 2, never a traceback."""
    from .loggers import configure_logging

    configure_logging(console)
    try:
        dispatch(sys.argv[1:])
    except ValueError as error:
        fail(str(error), USER_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            fail(str(error), USER_ERROR)
        where = f" while writing {error.filename}" if error.filename else ""
        fail(f"the disk is full{where}; free some space and run the command again (train: add --resume)", USER_ERROR)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except Exception as error:
        signum = getattr(error, "signum", None)
        if signum is None:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is saved: an impatient second Ctrl-C has nothing to stop
        fail(str(error), 128 + signum)


def fail(message: str, status: int) -> None:
    """Print one line, or the traceback where FASTLT_TRACEBACK is set, and exit."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    print(f"fastlt: {message}", file=sys.stderr)
    raise SystemExit(status)
