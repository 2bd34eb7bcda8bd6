"""`fastlt data verify`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table

from ..config import check_choice, check_range
from ..config.base import File, Folder, one_of
from ..recipes import PUBLISHED_RECIPES
from ..runtime.output import quoted
from .common import Output, console, parse, say, write_output

if TYPE_CHECKING:
    from ..data.inspection.verification import Verification

NUM_NAMED = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataVerify(Output):
    """Check a published benchmark: its lists, counts, checksums and missing images."""

    dataset: Annotated[str, one_of(PUBLISHED_RECIPES)]
    """The benchmark."""
    data_root: Folder
    """Folder with the images or the public archive, or a pack."""
    lists: Folder | None = None
    """Folder with the list files (released names, or train.txt, val.txt, test.txt; for iNaturalist also its JSON), if
    not in --data-root."""
    missing: File | None = None
    """File for the names of all missing images; by default one in the cache folder."""
    imbalance: float = 100.0
    """cifar10_lt and cifar100_lt: images in the largest class divided by those in the smallest."""
    data_seed: int = 0
    """cifar10_lt and cifar100_lt: seed for choosing the images; 0 is the usual one."""

    def __post_init__(self) -> None:
        """Refuse arguments that cannot work."""
        check_range("--imbalance", self.imbalance, low=1)
        check_range("--data-seed", self.data_seed, low=0, high=2**32 - 1)


def run(argv: Sequence[str]) -> None:
    """Run `fastlt data verify`; the exit status is 2 if anything is wrong."""
    parsed = parse(DataVerify, argv, "data verify")
    from ..data.published.interface import DataOptions
    from ..data.registry import PUBLISHED
    from ..runtime.cache import cache_dir

    check_choice("--dataset", parsed.dataset, tuple(PUBLISHED))
    published = PUBLISHED[parsed.dataset]
    options = DataOptions(lists=parsed.lists, imbalance=parsed.imbalance, seed=parsed.data_seed)
    outcome = published.verify(parsed.data_root, options)
    console.print(table(outcome, f"{published.title} in {parsed.data_root}"))
    write_output(parsed.json, outcome.to_json())
    for name in outcome.unreadable:
        say(f"cannot be decoded: {name}")
    if outcome.num_missing:
        name_missing(outcome, parsed.missing or cache_dir() / "verify" / f"{parsed.dataset}-missing.txt")
    say(cost(outcome))
    if outcome.problems:
        problems = "; ".join(outcome.problems)
        raise ValueError(
            f"--data-root: got {parsed.data_root}, which is not {published.title} as published: {problems}; "
            f"{published.remedy}"
        )
    if outcome.indices is not None:
        say(
            f"{parsed.dataset}: {outcome.num_images['train']:,} train images, imbalance {parsed.imbalance:g}, seed "
            f"{parsed.data_seed}: indices {outcome.indices}"
        )
    say(f"next: fastlt train --dataset {parsed.dataset} --data-root {quoted(parsed.data_root)}{flags(parsed)}")


def flags(parsed: DataVerify) -> str:
    """Return the flags of `fastlt train` that open the verified data."""
    texts = [f" --lists {quoted(parsed.lists)}" if parsed.lists else ""]
    texts += [f" --imbalance {parsed.imbalance:g}"] if parsed.imbalance != DataVerify.imbalance else []
    texts += [f" --data-seed {parsed.data_seed}"] if parsed.data_seed != DataVerify.data_seed else []
    return "".join(texts)


def table(outcome: Verification, title: str) -> Table:
    """Return a table of all comparisons, one per line."""
    rows = Table("", "expected", "found", "", title=title)
    marks = {True: "ok", False: "WRONG", None: "differs"}
    for check in outcome.checks:
        rows.add_row(check.what, check.expected, check.found, marks[check.ok])
    if any(check.ok is None and check.what.endswith("list") for check in outcome.checks):
        rows.caption = "Lists differ from the released ones wherever their paths start otherwise: no fault in itself."
    return rows


def name_missing(outcome: Verification, file: Path) -> None:
    """Name the first missing images on the terminal, and all of them in a file."""
    from ..files import replacing

    absent = [(split, path) for split, paths in outcome.missing.items() for path in paths]
    for split, path in absent[:NUM_NAMED]:
        say(f"missing ({split}): {path}")
    with replacing(file) as partial:
        partial.write_text("".join(f"{path}\n" for _, path in absent), encoding="utf-8", errors="surrogateescape")
    if len(absent) > NUM_NAMED:
        say(f"... and {len(absent) - NUM_NAMED:,} more")
    say(f"all {len(absent):,} are named in {file}")


def cost(outcome: Verification) -> str:
    """Return a sentence on the disk space of the images, and the processor time to decode them."""
    disk = f"{outcome.num_bytes / 1e9:.2f} GB on disk"
    if outcome.decode_ms is None:
        return disk
    epoch_min = outcome.num_images["train"] * outcome.decode_ms / 60_000
    return (
        f"{disk}; decoding takes {outcome.decode_ms:.1f} ms per image on one core here "
        f"({outcome.num_sampled} sampled), {epoch_min:.1f} core-minutes per epoch"
    )
