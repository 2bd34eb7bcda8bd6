"""`fastlt predict`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..config import PredictConfig
from ..config.base import File
from .common import Output, console, narrow, parse, say, write_output

if TYPE_CHECKING:
    from ..inference.prediction import ImagePredictions
    from ..run import Run

NUM_SHOWN = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(Output, PredictConfig):
    """Classify images: the most probable classes of each, with their probabilities."""

    places: tyro.conf.Positional[Annotated[tuple[Path, ...], "[RUN] IMAGES"]]
    """Run folder (by default the last one trained here), then image files or folders of images."""
    out: File | None = None
    """Write every prediction to this CSV file."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt predict`."""
    parsed = parse(Predict, argv, "predict")
    run, images = split_places(parsed.places)
    from ..inference.prediction import predict

    made = predict(run, images, config=narrow(parsed, PredictConfig))
    if parsed.out is not None:
        made.write_csv(parsed.out)
    write_output(parsed.json, made.to_json())
    show(made)
    for path in filter(None, (parsed.out, parsed.json)):
        say(f"predictions: {path}")


def split_places(places: Sequence[Path]) -> tuple[Run, Sequence[Path]]:
    """Return the run that the arguments name, or the last one, and the images.

    Raises:
        ValueError: No image is named.
    """
    from ..run import Run

    named = bool(places) and (places[0] / "data.json").is_file() and (places[0] / "config.json").is_file()
    images = places[1:] if named else places
    if not images:
        raise ValueError("IMAGES: missing; name image files or a folder of images: fastlt predict [RUN] IMAGES")
    return Run.open(places[0] if named else None), images


def show(made: ImagePredictions) -> None:
    """Print the first predictions, and how many more there are."""
    table = Table(title=f"{made.method} of {made.run}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    for row in made.to_json()["predictions"][:NUM_SHOWN]:
        table.add_row(row["file"], row["class"], f"{row['probability']:.3f}")
    console.print(table)
    if len(made.files) > NUM_SHOWN:
        say(f"and {len(made.files) - NUM_SHOWN:,} more: --out FILE.csv or --json FILE writes all of them")
    if made.skipped:
        file, reason = next(iter(made.skipped.items()))
        say(f"{len(made.skipped):,} files could not be read, first {file} ({reason})")
