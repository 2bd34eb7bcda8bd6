"""`fastlt data split`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tyro

from ..config.base import Folder, Root
from ..runtime.output import quoted
from .common import Output, parse, say, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSplit(Output):
    """Split class folders or a table of images into lists; no image is moved."""

    root: tyro.conf.Positional[Root]
    """Folder with one folder of images per class, or with images and a table of their classes."""
    out: Folder | None = None
    """Folder for train.txt, val.txt, test.txt and classes.txt; by default ROOT/lists."""
    val_per_class: int = 20
    """Val images per class; a small class keeps most of its images in train."""
    test_per_class: int = 50
    """Test images per class; 0 writes no test list."""
    seed: int = 0
    """Seed for choosing the images."""
    strict: bool = False
    """Stop at an incomplete image, or a picture of a kind that is not read, instead of leaving it out."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt data split`."""
    parsed = parse(DataSplit, argv, "data split")
    from ..data.layouts.split import split_folder

    summary = split_folder(
        parsed.root,
        parsed.out,
        val_per_class=parsed.val_per_class,
        test_per_class=parsed.test_per_class,
        seed=parsed.seed,
        strict=parsed.strict,
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in summary.num_images.items())
    say(f"{summary.num_classes} classes: {counts} images; lists in {summary.out}")
    if summary.num_reduced:
        say(f"{summary.num_reduced} small classes gave fewer images to val and test")
    root = parsed.root if parsed.out is None else parsed.out
    say(f"next: fastlt train --dataset folder --data-root {quoted(root)}")
    write_output(parsed.json, dataclasses.asdict(summary) | {"out": str(summary.out)})
