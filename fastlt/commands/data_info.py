"""`fastlt data info`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from ..config.base import Folder, Root, one_of
from ..recipes import PUBLISHED_RECIPES
from .common import Output, console, parse, say, write_output

if TYPE_CHECKING:
    from ..data.dataset import LongTailedDataset

NUM_NAMED = 10
MOST_OF_A_GROUP = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataInfo(Output):
    """Show the long tail of a data set, and the files that cannot be read."""

    root: tyro.conf.Positional[Root]
    """Folder with the images."""
    lists: Folder | None = None
    """Folder with the list files, if not in ROOT."""
    dataset: Annotated[str, one_of(("folder", *PUBLISHED_RECIPES))] = "folder"
    """Data set, if it is one with its own layout."""
    duplicates: bool = False
    """Also look for duplicate images, within and across splits; this reads files."""
    duplicates_gb: float = 20.0
    """Most gigabytes to read when looking for duplicates."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt data info`."""
    parsed = parse(DataInfo, argv, "data info")
    from ..data.inspection.summary import describe
    from ..data.published.interface import DataOptions
    from ..data.registry import open_named

    splits = open_named(parsed.dataset, parsed.root, DataOptions(lists=parsed.lists), needs_val=False)
    facts = describe(splits)
    table = Table("split", "images", "most per class", "fewest per class", "files skipped", "decoded by Pillow")
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
    if parsed.duplicates:
        facts["duplicates"] = print_duplicates(splits, max_bytes=int(parsed.duplicates_gb * 1e9))
    write_output(parsed.json, facts)


def print_duplicates(splits: dict[str, LongTailedDataset], *, max_bytes: int) -> dict[str, Any]:
    """Print the duplicate images, and return them as JSON values."""
    from ..data.inspection.duplicates import find_duplicates

    duplicates = find_duplicates(splits, max_bytes=max_bytes)
    if not duplicates.groups:
        say("duplicates: none")
    for touched, count in duplicates.counts().items():
        where = "across" if "," in touched else "within"
        say(f"duplicates {where} {touched}: {count:,}")
    if duplicates.num_contradictions:
        say(f"{duplicates.num_contradictions:,} of them have different labels")
    for group in duplicates.groups[:NUM_NAMED]:
        named = ", ".join(f"{path} ({split}, class {label})" for split, path, label in group[:MOST_OF_A_GROUP])
        say(f"the same image: {named}{', ...' if len(group) > MOST_OF_A_GROUP else ''}")
    if duplicates.num_unread:
        say(f"{duplicates.num_unread:,} files were not compared; --duplicates-gb allows more")
    return {
        "counts": duplicates.counts(),
        "num_contradictions": duplicates.num_contradictions,
        "num_unread": duplicates.num_unread,
        "groups": [[list(image) for image in group] for group in duplicates.groups],
    }
