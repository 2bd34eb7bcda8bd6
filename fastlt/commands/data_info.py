"""`fastlt data info`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.table import Table

from .common import Output, console, parse, say, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataInfo(Output):
    """Show the long tail of a data set: counts, imbalance ratio, shot groups, files that cannot be read."""

    root: tyro.conf.Positional[Path]
    """Folder with the images."""
    lists: Path | None = None
    """Folder with the list files, if not in ROOT."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt data info`."""
    parsed = parse(DataInfo, argv, "data info")
    from ..data.dataset import open_splits
    from ..data.summary import describe

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
