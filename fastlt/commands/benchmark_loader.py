"""`fastlt benchmark loader`."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table

from ..config import check_choice, check_range
from ..config.base import Device, Folder, one_of
from .common import Output, console, parse, say, write_output

if TYPE_CHECKING:
    import torch

    from ..data.dataset import LongTailedDataset

TUNED = ("auto", "dali", "pillow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkLoader(Output):
    """Time the image loaders, their stages, and a plain DataLoader."""

    data_root: Folder | None = None
    """Folder with your images; by default made-up photographs of 500 x 375 pixels."""
    lists: Folder | None = None
    """Folder with the list files, if not in --data-root."""
    images: int = 512
    """Number of made-up photographs, if there is no --data-root."""
    batch_size: int = 64
    """Images per batch."""
    image_size: int = 224
    """Side of the crops, pixels."""
    num_threads: int | None = None
    """Loader threads or workers; with --tune, the most to try. By default the number of processors, at most 16."""
    tune: bool = False
    """Try thread counts, depths and, on a GPU, shares of the hardware decoder instead, and name the best settings."""
    loader: Annotated[str, one_of(TUNED)] = "auto"
    """Loader to tune; auto takes DALI if it is installed."""
    device: Device = "auto"
    """Device to compute on; auto takes a CUDA device if there is one."""


@contextlib.contextmanager
def open_images(parsed: BenchmarkLoader) -> Iterator[LongTailedDataset]:
    """Open the user's training images, or write made-up ones for as long as the benchmark runs."""
    if parsed.data_root is not None:
        from ..data.splits import open_splits

        dataset = open_splits(parsed.data_root, lists=parsed.lists)["train"]
        if len(dataset) < parsed.batch_size:
            raise ValueError(
                f"--batch-size: got {parsed.batch_size}; expected at most the {len(dataset)} train images of "
                f"{dataset.root}; give a smaller one"
            )
        yield dataset
        return
    from ..timing.loader import photographs

    with tempfile.TemporaryDirectory() as folder:
        yield photographs(Path(folder) / "train", parsed.images)


def run(argv: Sequence[str]) -> None:
    """Run `fastlt benchmark loader`."""
    parsed = parse(BenchmarkLoader, argv, "benchmark loader")
    for flag, value in (
        ("--images", parsed.images),
        ("--batch-size", parsed.batch_size),
        ("--image-size", parsed.image_size),
        ("--num-threads", 1 if parsed.num_threads is None else parsed.num_threads),
    ):
        check_range(flag, value, low=1)
    if parsed.data_root is None and parsed.images < max(10, parsed.batch_size):
        raise ValueError(
            f"--images: got {parsed.images}; expected at least 10 and a batch of {parsed.batch_size}; give more, or a "
            "smaller --batch-size"
        )
    check_choice("--loader", parsed.loader, TUNED)
    from ..runtime.device import resolve_device
    from ..runtime.machine import describe_machine, resolve_threads
    from ..timing.loader import measure

    device, threads = resolve_device(parsed.device), resolve_threads(parsed.num_threads)
    if parsed.tune:
        run_tuning(parsed, device, threads)
        return
    machine = describe_machine(device)
    results = []
    with open_images(parsed) as dataset:
        num_images = len(dataset)
        for result in measure(
            dataset, device=device, batch_size=parsed.batch_size, image_size=parsed.image_size, num_threads=threads
        ):
            results.append(result)
            rows = [dataclasses.asdict(each) for each in results]
            # Written now, so that an interrupted run keeps its results
            write_output(parsed.json, {"machine": machine, "num_images": num_images, "results": rows})
            rate = result.images_per_s
            say(f"{result.name}: {result.error if rate is None else f'{rate:,.0f} img/s'}")
    plain = next((result.images_per_s for result in results if result.name == "plain DataLoader"), None)
    table = Table("stage or loader", "threads", "img/s", "x plain DataLoader")
    for result in results:
        if result.images_per_s is not None:
            ratio = f"{result.images_per_s / plain:.2f}" if plain and not result.is_stage else "-"
            table.add_row(result.name, str(result.num_threads), f"{result.images_per_s:,.0f}", ratio)
    console.print(table)
    say(f"{num_images:,} images, batch {parsed.batch_size}, {parsed.image_size} pixels, {machine['device']}")


def run_tuning(parsed: BenchmarkLoader, device: torch.device, most_threads: int) -> None:
    """Find the loader's best settings, and print them as flags."""
    from ..runtime.machine import describe_machine, has_dali
    from ..timing.tune import Trial, trial_rate, tune

    machine = describe_machine(device)
    loader = ("dali" if has_dali() else "pillow") if parsed.loader == "auto" else parsed.loader
    with open_images(parsed) as dataset:

        def rate(trial: Trial) -> float:
            reached = trial_rate(
                dataset, trial, device=device, batch_size=parsed.batch_size, image_size=parsed.image_size
            )
            say(f"{trial.flags(device)}: {reached:,.0f} img/s")
            return reached

        def write(best: dict[str, Any]) -> None:
            """Write what was tried so far, so that an interrupted run keeps it."""
            record = {"machine": machine, "num_images": len(dataset), "results": tried, "best": best}
            write_output(parsed.json, record)

        tried: list[dict[str, Any]] = []
        for trial, reached in tune(rate, loader=loader, most_threads=most_threads, device=device):
            best, row = trial, dataclasses.asdict(trial) | {"images_per_s": reached}
            if row in tried:  # the last trial repeats the best one
                write(row)
                break
            tried.append(row)
            write(max(tried, key=lambda each: each["images_per_s"]))
        num_images = len(dataset)
    say(f"{num_images:,} images, batch {parsed.batch_size}, {parsed.image_size} pixels, {machine['device']}")
    say(f"best: {best.flags(device)}  ({reached:,.0f} img/s)")
