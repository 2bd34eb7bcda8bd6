"""`fastlt data verify`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from ..config import check_choice, check_range
from .common import Output, console, parse, say, write_output

if TYPE_CHECKING:
    from ..data.inspection.verify import Verification

NUM_NAMED = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataVerify(Output):
    """Check a published benchmark: images in any known layout, lists, counts, groups, checksums, what is missing."""

    dataset: str
    """The benchmark: imagenet_lt, places_lt, inat2018, cifar10_lt or cifar100_lt."""
    data_root: Path
    """Folder with the images, or with CIFAR's archive, or a pack."""
    lists: Path | None = None
    """Folder with the list files (released names, or train.txt, val.txt, test.txt; for iNaturalist also its JSON), if
    not in DATA-ROOT."""
    missing: Path | None = None
    """File to name all missing images in; by default one in the cache folder."""
    imbalance: float = 100.0
    """CIFAR-10-LT and CIFAR-100-LT: images of the largest class over those of the smallest."""
    data_seed: int = 0
    """CIFAR-10-LT and CIFAR-100-LT: seed of the choice of images; 0 is the usual one."""

    def __post_init__(self) -> None:
        """Refuse arguments that cannot work."""
        check_range("--imbalance", self.imbalance, low=1)
        check_range("--data-seed", self.data_seed, low=0, high=2**32 - 1)


def run(argv: Sequence[str]) -> None:
    """Run `fastlt data verify`: status 2 where anything is wrong."""
    parsed = parse(DataVerify, argv, "data verify")
    from ..data.index import cache_dir
    from ..data.inspection.verify import verify, verify_cifar
    from ..data.published.cifar import CIFAR
    from ..data.published.specs import BENCHMARKS

    check_choice("--dataset", parsed.dataset, (*BENCHMARKS, *CIFAR))
    options, remedy = "", "complete the download, or give other --lists"
    if parsed.dataset in CIFAR:
        if parsed.lists is not None:
            raise ValueError(f"--lists: got {parsed.lists} with --dataset {parsed.dataset}, which has none; drop it")
        title, remedy = CIFAR[parsed.dataset].title, "download the public archive again"
        found = verify_cifar(CIFAR[parsed.dataset], parsed.data_root, imbalance=parsed.imbalance, seed=parsed.data_seed)
        options = f" --imbalance {parsed.imbalance:g}" if parsed.imbalance != 100 else ""
        options += f" --data-seed {parsed.data_seed}" if parsed.data_seed else ""
    else:
        title = BENCHMARKS[parsed.dataset].title
        found = verify(BENCHMARKS[parsed.dataset], parsed.data_root, lists=parsed.lists)
        options = f" --lists {shlex.quote(str(parsed.lists))}" if parsed.lists else ""
    console.print(table(found, f"{title} in {parsed.data_root}"))
    write_output(parsed.json, found.to_json())
    for name in found.unreadable:
        say(f"cannot be decoded: {name}")
    if found.num_missing:
        file = parsed.missing or cache_dir() / "verify" / f"{parsed.dataset}-missing.txt"
        name_missing(found, file)
    say(cost(found))
    if found.problems:
        raise ValueError(f"{parsed.data_root} is not {title} as published: {'; '.join(found.problems)}: {remedy}")
    if found.indices is not None:
        say(
            f"{parsed.dataset}: {found.num_images['train']:,} train images, imbalance {parsed.imbalance:g}, seed "
            f"{parsed.data_seed}: indices {found.indices}"
        )
    say(f"next: fastlt train --dataset {parsed.dataset} --data-root {shlex.quote(str(parsed.data_root))}{options}")


def table(found: Verification, title: str) -> Table:
    """Return what was compared, a line each."""
    rows = Table("", "expected", "found", "", title=title)
    marks = {True: "ok", False: "WRONG", None: "differs"}
    for check in found.checks:
        rows.add_row(check.what, check.expected, check.found, marks[check.ok])
    if any(check.ok is None and check.what.endswith("list") for check in found.checks):
        rows.caption = "Lists differ from the released ones wherever their paths start otherwise: no fault in itself."
    return rows


def name_missing(found: Verification, file: Path) -> None:
    """Name the first missing images on the terminal, and all of them in a file."""
    from ..files import replacing

    absent = [(split, path) for split, paths in found.missing.items() for path in paths]
    for split, path in absent[:NUM_NAMED]:
        say(f"missing ({split}): {path}")
    with replacing(file) as partial:
        partial.write_text("".join(f"{path}\n" for _, path in absent), encoding="utf-8", errors="surrogateescape")
    if len(absent) > NUM_NAMED:
        say(f"... and {len(absent) - NUM_NAMED:,} more")
    say(f"all {len(absent):,} are named in {file}")


def cost(found: Verification) -> str:
    """Say what the images take: disk, and processor time to decode."""
    disk = f"{found.num_bytes / 1e9:.2f} GB on disk"
    if found.decode_ms is None:
        return disk
    epoch_min = found.num_images["train"] * found.decode_ms / 60_000
    return (
        f"{disk}; decoding takes {found.decode_ms:.1f} ms an image on one core here ({found.num_sampled} sampled), "
        f"{epoch_min:.1f} core-minutes an epoch"
    )
