"""`fastlt train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..config import TrainConfig
from .common import console, parse, say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Train a network jointly with its classifier (stage 1)."""


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
    from ..recipes import recipe

    dataset = flag_value(argv, "--dataset")
    asks_for_help = not {"-h", "--help"}.isdisjoint(argv)
    if "--resume" in argv and not asks_for_help:
        from ..run import Run

        out = flag_value(argv, "--out")
        run = Run.open(Path(out) if out else None)
        base = dataclasses.replace(run.config, out=run.path)
    elif dataset is None and flag_value(argv, "--data-root") is None and not asks_for_help:
        from ..recipes import RECIPES

        raise ValueError(
            f"--dataset: missing; give one of {', '.join(RECIPES)}, or --data-root DIR for your own images"
        )
    else:
        base = recipe(dataset or "folder")
    default = Train(**{field.name: getattr(base, field.name) for field in dataclasses.fields(TrainConfig)})
    parsed = parse(Train, argv, "train", default)
    return TrainConfig(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(TrainConfig)})


def run(argv: Sequence[str]) -> None:
    """Run `fastlt train`."""
    config = train_config(argv)
    from ..training import train

    run = train(config, console=console)
    say(f"trained: {run.path}. Rebalance its classifier with: fastlt rebalance --tau auto")
