"""`fastlt reproduce`."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..config import METHODS, SAMPLINGS, RebalanceConfig, TrainConfig, check_choice, check_range
from ..config.base import FUNCTION, Folder, Sampling, one_of
from ..config.plugins import check_method
from ..recipes import RECIPES, recipe
from .common import Output, console, parse, say, settings_of, write_output
from .train import check_data_given, flag_value, warn_of_settings

if TYPE_CHECKING:
    from ..report.reproduction import Reproduction

ANY_SAMPLING = "class_balanced"
"""What stands for each sampling in turn: it goes with every other flag."""
INSTEAD = {"--sampling": "--samplings", "--seed": "--seeds", "--resume": "the same command again, which goes on"}
"""Flags of `fastlt train` that the table sets by itself."""
UNMARKED = ("backbone", "epochs", "batch_size", "init", "imbalance")
"""Settings that do not mark the default folder: a table of earlier versions goes on in it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce(TrainConfig, Output):
    """Fill the paper's table: every sampling, every classifier, published figures.

    Run it again to continue where it stopped. It takes every flag of `train`.
    """

    dataset: Annotated[str, one_of(RECIPES)] = TrainConfig.dataset
    batch_size: int = TrainConfig.batch_size
    """Images per step. The learning rates scale in proportion, unless they are given."""
    sampling: tyro.conf.Suppress[str] = ANY_SAMPLING
    seed: tyro.conf.Suppress[int] = TrainConfig.seed
    resume: tyro.conf.Suppress[bool] = False
    samplings: tuple[Sampling, ...] = SAMPLINGS
    """Samplings of stage 1."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; with two or more, intervals are taken over them."""
    methods: tuple[Annotated[str, one_of((*METHODS, FUNCTION))], ...] | None = None
    """Rebalancing methods beside the joint classifier, your own among them; by default all that have a name."""
    out: Folder | None = None
    """Folder of all runs and tables; by default runs/<dataset>/reproduce-<backbone>-<epochs>[-synthetic], and a mark of
    the other flags."""

    def __post_init__(self) -> None:
        """Refuse arguments that cannot work."""
        super().__post_init__()
        for sampling in self.samplings:
            check_choice("--samplings", sampling, SAMPLINGS)
        for seed in self.seeds:
            check_range("--seeds", seed, low=0, high=2**63 - 1)
        if self.samples_per_class is not None and ANY_SAMPLING not in self.samplings:
            raise ValueError(
                f"--samples-per-class: got {self.samples_per_class} with --samplings {' '.join(self.samplings)}; "
                f"expected {ANY_SAMPLING} among them; add it, or drop the flag"
            )
        for method in self.methods or ():
            check_method(method, flag="--methods", several=True)
        for flag, values in (("--samplings", self.samplings), ("--seeds", self.seeds), ("--methods", self.methods)):
            if values is not None and (not values or len(set(values)) < len(values)):
                got = " ".join(map(str, values)) or "none"
                raise ValueError(f"{flag}: got {got}; expected one or more, each once; drop the repetitions")


def arguments(argv: Sequence[str]) -> Reproduce:
    """Return the command's arguments: the recipe's settings, overridden by flags.

    Raises:
        ValueError: There is no data set, or a flag is one that the table sets by itself.
    """
    for flag, instead in INSTEAD.items():
        if flag_value(argv, flag) is not None or flag in argv:
            raise ValueError(f"{flag}: got it in a table of several runs; expected {instead}; drop the flag")
    dataset = flag_value(argv, "--dataset")
    base = recipe(dataset or TrainConfig.dataset)
    parsed = parse(Reproduce, argv, "reproduce", Reproduce(**vars(base) | {"sampling": ANY_SAMPLING}))
    check_data_given(dataset, parsed.data_root)
    given = {name for name in ("lr", "backbone_lr") if flag_value(argv, f"--{name.replace('_', '-')}") is not None}
    rates: dict[str, Any] = {
        name: rate for name, rate in scaled_rates(base, parsed.batch_size).items() if name not in given
    }
    return dataclasses.replace(parsed, **rates)


def scaled_rates(base: TrainConfig, batch_size: int) -> dict[str, float]:
    """Return a recipe's learning rates for another batch size, in proportion."""
    share = batch_size / base.batch_size
    rates = {"lr": base.lr, "backbone_lr": base.backbone_lr}
    return {name: rate * share for name, rate in rates.items() if rate is not None}


def settings(parsed: Reproduce) -> TrainConfig:
    """Return the settings of every run but for its sampling and seed."""
    return dataclasses.replace(settings_of(parsed, TrainConfig), out=None)


def default_folder(base: TrainConfig) -> Path:
    """Return the folder of the table of these settings."""
    from ..report.reproduction import departures

    name = base.backbone.replace(":", "-").replace("/", "-")
    marks = ["synthetic"] if base.synthetic else []
    rates = scaled_rates(recipe(base.dataset), base.batch_size)
    unmarked = (*UNMARKED, *(setting for setting, rate in rates.items() if getattr(base, setting) == rate))
    departing = departures(base).keys() - set(unmarked)
    if others := {setting: value for setting, value in base.to_json().items() if setting in departing}:
        marks.append(hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:6])
    return Path("runs") / base.dataset / "-".join(["reproduce", name, str(base.epochs), *marks])


def run(argv: Sequence[str]) -> None:
    """Run `fastlt reproduce`."""
    parsed = arguments(argv)
    base = settings(parsed)
    from ..reproduce import reproduce

    warn_of_settings(base)
    out = parsed.out or default_folder(base)
    stage2 = RebalanceConfig(
        method="all",
        device=base.device,
        loader=base.loader,
        num_threads=base.num_threads,
        protocol=base.protocol,
        features="live" if base.protocol == "released" else "cached",
    )
    reproduction = reproduce(
        base,
        stage2,
        samplings=parsed.samplings,
        seeds=parsed.seeds,
        methods=parsed.methods,
        out=out,
        console=console,
    )
    for table in tables(reproduction):
        console.print(table)
    if reproduction.departure_note:
        say(reproduction.departure_note)
    if base.synthetic:
        say(f"on {reproduction.data}: the accuracies say nothing about {base.dataset}")
    for line in reproduction.finding:
        say(line)
    say(f"tables: {out / 'table.md'}, {out / 'table.csv'}, {out / 'results.json'}")
    write_output(parsed.json, reproduction.to_json())


def tables(reproduction: Reproduction) -> Iterator[Table]:
    """Yield a table for each split and sampling, narrow enough for a terminal of 80 columns."""
    short = {"paper: all": "paper", "difference": "diff"}
    for (split, sampling), lines in itertools.groupby(reproduction.lines(), key=lambda line: (line[0], line[1])):
        title = f"{split}, {sampling.replace('_', '-')} sampling"
        table = Table(
            title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
        )
        for name in reproduction.header()[2:]:
            table.add_column(short.get(name, name), justify="left" if name == "classifier" else "right", no_wrap=True)
        for line in lines:
            table.add_row(*(cell.replace(" ± ", "±") for cell in line[2:]))
        yield table
