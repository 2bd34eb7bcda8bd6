"""`fastlt rebalance`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..config import RebalanceConfig
from ..config.checkpoint import CheckpointConfig
from ..runtime.output import quoted
from .common import Output, choice_of, console, open_run, parse, print_results, say, settings_of, write_output

if TYPE_CHECKING:
    from ..evaluation.choice import Choice
    from ..run import Run

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".safetensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rebalance(Output, RebalanceConfig):
    """Rebalance the linear classifier of a trained network (stage 2)."""

    run: tyro.conf.Positional[Annotated[str, "[RUN | CHECKPOINT]"]] = ""
    """A run folder, by default the last one trained here (runs/last), or a checkpoint from elsewhere: a file or a
    folder with weights. Averaged weights are preferred to plain ones."""
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)


def run(argv: Sequence[str]) -> None:
    """Run `fastlt rebalance`."""
    parsed = parse(Rebalance, argv, "rebalance")
    if names_checkpoint(parsed.run):
        rebalance_file(parsed)
    else:
        rebalance_run(parsed)


def rebalance_run(parsed: Rebalance) -> None:
    """Rebalance a run, and print its table and the paths of the checkpoints."""
    if flags := parsed.checkpoint.given(ignored=("data_root", "lists")):
        raise ValueError(
            f"{flags[0]}: got it with {parsed.run or 'the last run'}, a run, which knows its own settings; expected a "
            "CHECKPOINT; drop it, or name a checkpoint first"
        )
    run = open_run(parsed.run, parsed.checkpoint.data_root, parsed.checkpoint.lists)
    from ..rebalancing.run import read_released, read_results, rebalance

    config = settings_of(parsed, RebalanceConfig)
    before = None if config.chooses else choice_of(run)
    rebalance(run, config)
    if config.chooses:
        choice = show_choice(run, parsed, str(run.path))
        if choice.method != "joint":
            say(f"checkpoint: {run.method(choice.method) / 'model.safetensors'}")
        say(f"next: fastlt predict {quoted(run.path)} IMAGES, or fastlt export or report")
        return
    print_results(read_results(run, parsed.methods), str(run.path), parsed.json)
    if released := read_released(run, parsed.method):
        console.print()
        console.print(released.table("as released, exactly: no linear head says the same"))
    for method in parsed.methods:
        say(f"checkpoint: {run.method(method) / 'model.safetensors'}")
    if before is not None:
        say(fate_of(before, choice_of(run), parsed))


def rebalance_file(parsed: Rebalance) -> None:
    """Rebalance a checkpoint, and print its table and the paths of the new checkpoints."""
    from ..rebalancing.checkpoint import rebalance_checkpoint
    from ..rebalancing.run import read_results

    config = settings_of(parsed, RebalanceConfig)
    run, outputs = rebalance_checkpoint(Path(parsed.run), parsed.checkpoint, config)
    if config.chooses:
        show_choice(run, parsed, parsed.run)
        if not outputs:
            say(f"nothing is written: {parsed.run} is the best as it is")
    else:
        print_results(read_results(run, parsed.methods), parsed.run, parsed.json)
    for method, out in outputs.items():
        say(f"checkpoint: {out}{', a copy of the input' if method == 'joint' else ''}")


def show_choice(run: Run, parsed: Rebalance, title: str) -> Choice:
    """Print the candidates of a choice, the winner and its results, write them as JSON too, and return the choice."""
    from ..evaluation.choice import read_choice
    from ..features.store import FeatureStore
    from ..rebalancing.run import results_of_choice
    from ..runtime.device import resolve_device

    store = FeatureStore(
        run, device=resolve_device(parsed.device), loader=parsed.loader, num_threads=parsed.num_threads
    )
    choice = read_choice(store)
    if choice is None:
        raise ValueError(f"{run.path}: got a classifier that another process made meanwhile; run the command again")
    results = results_of_choice(store, choice)
    console.print(choice.table())
    console.print()
    console.print(results.table(title))
    write_output(parsed.json, results.to_json() | {"choice": choice.to_json()})
    for method, reason in choice.left_out.items():
        say(f"{method} was not tried: {reason}")
    if choice.left_out and parsed.method == "auto":
        say(f"to try all of them: {command(parsed)} --method best")
    say(choice.sentence(has_test="test" in store.names))
    if choice.method == "joint":
        say("no method is better than the joint classifier: predict, evaluate and export use it as it is")
    return choice


def fate_of(before: Choice, after: Choice | None, parsed: Rebalance) -> str:
    """Return what becomes of an earlier choice, now that a method was fitted by name."""
    if after is None:
        return (
            f"the earlier choice of {before.method} is void, since it was made again with other settings: choose again "
            f"with {command(parsed)}, or name a --method in later commands"
        )
    if after.method in parsed.methods and len(parsed.methods) == 1:
        return f"predict, evaluate and export use {after.method}, as chosen before"
    return (
        f"predict, evaluate and export go on with {after.method}, chosen before by cross-validated val; "
        "--method names another"
    )


def command(parsed: Rebalance) -> str:
    """Return the plain command for the same run or checkpoint."""
    return " ".join(["fastlt rebalance", *([quoted(parsed.run)] if parsed.run else [])])


def names_checkpoint(text: str) -> bool:
    """Return whether an argument names a checkpoint: a file, or a folder with weights that is not a run."""
    path = Path(text)
    if path.is_file() or path.suffix in CHECKPOINT_SUFFIXES:
        return True
    has_weights = path.is_dir() and any(file.suffix in CHECKPOINT_SUFFIXES for file in path.iterdir())
    return bool(text) and not (path / "data.json").is_file() and has_weights
