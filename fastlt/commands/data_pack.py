"""`fastlt data pack`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from ..config.base import Folder, Root, one_of
from ..recipes import PUBLISHED_RECIPES
from ..runtime.output import quoted
from .common import Output, console, parse, say, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPack(Output):
    """Pack each split into a plain tar with offsets, which training can read too."""

    root: tyro.conf.Positional[Root]
    """The data root; with --verify it may be a pack."""
    dataset: Annotated[str, one_of(("folder", *PUBLISHED_RECIPES))] = "folder"
    """Data set, if it is one with its own layout."""
    lists: Folder | None = None
    """Folder with the list files, if not in ROOT."""
    out: Folder | None = None
    """Folder of the pack; by default ROOT-packed, or ROOT-<short side> beside ROOT."""
    short_side: int | None = None
    """Resize larger images to this short side, pixels, re-encoded as JPEG; by default every file is kept as it is."""
    quality: int = 95
    """JPEG quality of re-encoded images."""
    verify: bool = False
    """Read everything back and compare it with its sources; if ROOT is a pack, with the pack's checksums."""
    num_threads: int | None = None
    """Threads that read and re-encode; by default the number of processors, at most 16."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt data pack`."""
    parsed = parse(DataPack, argv, "data pack")
    from ..data.packs.read import is_pack
    from ..data.packs.verify import verify_pack

    if is_pack(parsed.root):
        if not parsed.verify:
            raise ValueError(
                f"ROOT: got {parsed.root}, which is a pack already; give the original folder, or --verify to check it"
            )
        num_images = verify_pack(parsed.root, num_threads=parsed.num_threads)
        say(f"{num_images:,} images in {parsed.root} are as they were packed")
        write_output(parsed.json, {"out": str(parsed.root), "num_verified": num_images})
        return
    from rich.progress import Progress

    from ..data.layouts.walk import reasons_as_json
    from ..data.packs.write import pack
    from ..data.published.interface import DataOptions
    from ..data.registry import open_named

    splits = open_named(parsed.dataset, parsed.root, DataOptions(lists=parsed.lists))
    suffix = parsed.short_side or "packed"
    root = parsed.root if parsed.root.name not in ("", "..") else parsed.root.resolve()
    out = parsed.out or root.with_name(f"{root.name}-{suffix}")
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("packing", total=sum(map(len, splits.values())))
        summary = pack(
            splits,
            out,
            dataset=parsed.dataset,
            short_side=parsed.short_side,
            quality=parsed.quality,
            num_threads=parsed.num_threads,
            progress=lambda done: bar.advance(task, done),
        )
    counts = ", ".join(f"{count:,} {name}" for name, count in summary.num_images.items())
    kept = f", {summary.num_kept:,} of them from before" if summary.num_kept else ""
    say(f"{counts} images in {out} ({summary.num_bytes / 1e9:.2f} GB{kept})")
    left_out = {name: reasons_as_json(split.left_out) for name, split in splits.items()}
    facts = dataclasses.asdict(summary) | {"out": str(out), "left_out": left_out}
    if parsed.verify:
        facts["num_verified"] = verify_pack(out, sources=splits, num_threads=parsed.num_threads)
        say(f"verified: {facts['num_verified']:,} images are those of their sources")
    say(f"next: fastlt train --dataset {parsed.dataset} --data-root {quoted(out)}")
    write_output(parsed.json, facts)
