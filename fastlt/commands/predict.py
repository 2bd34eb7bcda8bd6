"""`fastlt predict`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..config import PredictConfig
from ..config.base import File
from .common import DataPlace, Output, console, open_run, parse, say, settings_of, write_output

if TYPE_CHECKING:
    from ..inference.prediction import ImagePredictions

NUM_SHOWN = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(DataPlace, Output, PredictConfig):
    """Classify images: the most probable classes of each, with their probabilities."""

    paths: tyro.conf.Positional[Annotated[tuple[Path, ...], "[RUN] IMAGES"]]
    """Run folder (by default the last one trained here), then image files or folders of images."""
    out: File | None = None
    """Write every prediction to this CSV file."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt predict`."""
    parsed = parse(Predict, argv, "predict")
    path, images = split_arguments(parsed.paths)
    run = open_run(path, parsed.data_root, parsed.lists)
    from ..inference.prediction import predict

    predictions = predict(run, images, config=settings_of(parsed, PredictConfig))
    if parsed.out is not None:
        predictions.write_csv(parsed.out)
    write_output(parsed.json, predictions.to_json())
    show(predictions)
    for path in filter(None, (parsed.out, parsed.json)):
        say(f"predictions: {path}")


def split_arguments(paths: Sequence[Path]) -> tuple[Path | str, Sequence[Path]]:
    """Return the run (the first argument; empty for the last run) and the images.

    Raises:
        ValueError: No image is named.
    """
    names_run = bool(paths) and (paths[0] / "data.json").is_file() and (paths[0] / "config.json").is_file()
    images = paths[1:] if names_run else paths
    if not images:
        raise ValueError("IMAGES: got none; expected image files or folders of images; fastlt predict [RUN] IMAGES")
    return paths[0] if names_run else "", images


def show(predictions: ImagePredictions) -> None:
    """Print the first predictions and the number of the others."""
    table = Table(
        title=f"{predictions.method} of {predictions.run}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    for file, ranking in itertools.islice(predictions.rankings(), NUM_SHOWN):
        table.add_row(file, ranking[0][0], f"{ranking[0][1]:.3f}")
    console.print(table)
    if len(predictions.files) > NUM_SHOWN:
        say(f"and {len(predictions.files) - NUM_SHOWN:,} more: --out FILE.csv or --json FILE writes all of them")
    if predictions.skipped:
        file, reason = next(iter(predictions.skipped.items()))
        say(f"{len(predictions.skipped):,} files could not be read, first {file} ({reason})")
