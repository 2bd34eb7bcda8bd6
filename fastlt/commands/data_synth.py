"""`fastlt data synth`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tyro

from ..config.base import Folder
from .common import console, parse, say


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSynth:
    """Write a made-up long-tailed set of glyphs, to test speed and scale."""

    out: tyro.conf.Positional[Folder]
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
    """Val images per class."""
    test_per_class: int = 0
    """Test images per class."""
    seed: int = 0
    """Seed for the images."""
    num_threads: int | None = None
    """Worker processes; by default the number of processors, at most 16."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt data synth`."""
    parsed = parse(DataSynth, argv, "data synth")
    from rich.progress import Progress

    from ..data.synthetic.any_shape import synthesize

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
