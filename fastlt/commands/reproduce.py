"""`fastlt reproduce`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..config import SAMPLINGS, RebalanceConfig, TrainConfig, check_choice, check_range
from ..config.base import Device, Folder, Loader, Precision, Protocol, Sampling, one_of
from ..recipes import RECIPES, recipe
from .common import Output, console, parse, say, write_output
from .train import warn_of_settings

if TYPE_CHECKING:
    from ..report.reproduction import Reproduction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce(Output):
    """Fill the paper's table: every sampling, every classifier, published figures.

    Run it again to continue where it stopped; finished runs are reused.
    """

    dataset: Annotated[str, one_of(RECIPES)]
    """Data set, and the recipe of its settings: see `fastlt recipes`."""
    data_root: Folder | None = None
    lists: Folder | None = None
    synthetic: bool = False
    """Run on a made-up set with the data set's classes, images and long tail instead, to try the whole pipeline."""
    synthetic_size: Annotated[tuple[int, int], "WIDTH HEIGHT"] | None = None
    """Width and height of the made-up pictures, pixels; by default 64 64."""
    imbalance: float | None = None
    """cifar10_lt and cifar100_lt: images in the largest class divided by those in the smallest; by default 100."""
    backbone: Annotated[str, "NAME"] | None = None
    """Network; by default the recipe's."""
    epochs: int | None = None
    """Epochs of stage 1; by default the recipe's."""
    batch_size: int | None = None
    """Images per step; by default the recipe's. The learning rates scale in proportion."""
    init: Annotated[Path, "FILE|DIR"] | None = None
    """Pretrained weights to start from."""
    protocol: Protocol | None = None
    """As for `fastlt train`; by default the recipe's."""
    samplings: tuple[Sampling, ...] = SAMPLINGS
    """Samplings of stage 1."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; with two or more, intervals are taken over them."""
    device: Device = "auto"
    precision: Precision = "auto"
    loader: Loader = "auto"
    num_threads: int | None = None
    """Loader threads or workers; by default one per processor, at most 16."""
    gpus: int | None = None
    accumulate: int | None = None
    out: Folder | None = None
    """Folder of all runs and tables; by default runs/<dataset>/reproduce-<backbone>-<epochs>[-synthetic]."""

    def __post_init__(self) -> None:
        """Refuse arguments that cannot work."""
        for sampling in self.samplings:
            check_choice("--samplings", sampling, SAMPLINGS)
        for seed in self.seeds:
            check_range("--seeds", seed, low=0, high=2**63 - 1)
        for flag, values in (("--samplings", self.samplings), ("--seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                got = " ".join(map(str, values)) or "none"
                raise ValueError(f"{flag}: got {got}; expected one or more, each once; drop the repetitions")


def settings(parsed: Reproduce) -> TrainConfig:
    """Return the recipe's settings, overridden by the command's."""
    base = recipe(parsed.dataset)
    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"out"}
    given = {name: value for name, value in vars(parsed).items() if name in names and value is not None}
    if parsed.batch_size is not None:
        share = parsed.batch_size / base.batch_size
        given["lr"] = base.lr * share
        if base.backbone_lr is not None:
            given["backbone_lr"] = base.backbone_lr * share
    return dataclasses.replace(base, **given)


def run(argv: Sequence[str]) -> None:
    """Run `fastlt reproduce`."""
    parsed = parse(Reproduce, argv, "reproduce")
    base = settings(parsed)
    from ..reproduce import reproduce

    warn_of_settings(base)
    name = base.backbone.replace(":", "-").replace("/", "-")
    kind = "-synthetic" if base.synthetic else ""
    out = parsed.out or Path("runs") / base.dataset / f"reproduce-{name}-{base.epochs}{kind}"
    stage2 = RebalanceConfig(
        method="all",
        device=base.device,
        loader=base.loader,
        num_threads=base.num_threads,
        protocol=base.protocol,
        features="live" if base.protocol == "released" else "cached",
    )
    reproduction = reproduce(base, stage2, samplings=parsed.samplings, seeds=parsed.seeds, out=out, console=console)
    for table in tables(reproduction):
        console.print(table)
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
