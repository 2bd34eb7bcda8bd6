"""`fastlt train`."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from ..config import TrainConfig
from ..config.base import one_of
from ..recipes import RECIPES, recipe
from ..runtime.log import log
from ..runtime.output import Terminal, quoted
from ..runtime.process import is_writer, under_torchrun
from .common import check_flags, console, parse, say, settings_of

GRACE_S = 3  # longer than the launcher's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Train a network jointly with its classifier (stage 1)."""

    dataset: Annotated[str, one_of(RECIPES)] = TrainConfig.dataset


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the last value of a flag in unparsed arguments, or None."""
    value = None
    for index, argument in enumerate(argv):
        name, equals, rest = argument.partition("=")
        if name.replace("_", "-") == flag:
            value = rest if equals else next(iter(argv[index + 1 : index + 2]), None)
    return value


def train_config(argv: Sequence[str]) -> TrainConfig:
    """Return the settings of `fastlt train`: the recipe's or, to resume, the run's, overridden by flags."""
    check_flags(Train, argv, "train")  # a misspelt flag before one that is missing
    dataset = flag_value(argv, "--dataset")
    asks_for_help = not {"-h", "--help"}.isdisjoint(argv)
    if "--resume" in argv and not asks_for_help:
        from ..run import Run

        out = flag_value(argv, "--out")
        run = Run.open(Path(out) if out else None)
        # The place of the data only if it is given, since then it is checked and remembered
        base = dataclasses.replace(run.config, out=run.path, data_root=None, lists=None)
    else:
        if not asks_for_help:
            check_data_given(dataset, flag_value(argv, "--data-root"))
        base = recipe(dataset or "folder")
    default = Train(**{field.name: getattr(base, field.name) for field in dataclasses.fields(TrainConfig)})
    parsed = parse(Train, argv, "train", default)
    return settings_of(parsed, TrainConfig)


def check_data_given(dataset: str | None, data_root: object) -> None:
    """Raise a ValueError if neither a data set nor a folder of images was given."""
    if dataset is None and data_root is None:
        raise ValueError(
            f"--dataset: got none; expected one of {', '.join(RECIPES)}; give one, or --data-root DIR for your own "
            "images"
        )


def run(argv: Sequence[str]) -> None:
    """Run `fastlt train` in this process, or in several."""
    config = train_config(argv)
    if config.gpus is not None and config.gpus > 1 and not under_torchrun():
        start_processes(config, argv)
        return
    from ..runtime.distributed import ReportedElsewhereError
    from ..training.signals import InterruptedTrainingError
    from ..training.trainer import train

    writes = is_writer()
    if writes:
        warn_of_settings(config)
    else:
        log.setLevel(logging.WARNING)
    try:
        run = train(config, console=console if writes else Terminal(quiet=True))
    except (ReportedElsewhereError, InterruptedTrainingError):
        if writes:
            raise
        # The process that writes reports the error; a status other than 0 would make torchrun kill it at once
        raise SystemExit(0) from None
    except Exception as error:
        if under_torchrun() and (isinstance(error, RuntimeError) or not writes):
            # The connection broke because another process failed, or the writer fails in the same way and reports it:
            # the launcher will end this process
            time.sleep(GRACE_S)
        raise
    if writes:
        say(f"trained: {run.path}")
        say(f"next: fastlt rebalance {quoted(run.path)}")


def warn_of_settings(config: TrainConfig) -> None:
    """Warn about a learning rate that does not suit the batch size, and about parts that would stay random."""
    from ..recipes.checks import check_linear_rule, check_start

    if config.resume:
        return
    rule = check_linear_rule(config, recipe(config.dataset)) if config.dataset in RECIPES else None
    for warning in (rule, check_start(config)):
        if warning is not None:
            log.warning(warning)


def start_processes(config: TrainConfig, argv: Sequence[str]) -> None:
    """Run the same command in several processes, one for each GPU, and exit with their status."""
    from ..runtime.distributed import World
    from ..runtime.launch import check_gpus, launch
    from ..training.setup import check_shares

    assert config.gpus is not None
    check_gpus(config)
    check_shares(config, World(size=config.gpus))
    status = launch(["train", *argv], config.gpus)
    if status:
        raise SystemExit(status)
