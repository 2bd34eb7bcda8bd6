"""`fastlt benchmark loader`."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from ..config import check_range
from .common import Output, console, parse, say, write_output

if TYPE_CHECKING:
    from ..data.dataset import LongTailedDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkLoader(Output):
    """Time the image loaders: each stage on one thread, each backend whole, and a plain DataLoader with Pillow."""

    data_root: Path | None = None
    """Folder with your images; by default made-up photographs of 500 x 375 pixels."""
    lists: Path | None = None
    """Folder with the list files, if not in DATA-ROOT."""
    images: int = 512
    """Made-up photographs, without --data-root."""
    batch_size: int = 64
    """Images a batch."""
    image_size: int = 224
    """Side of the crops, pixels."""
    num_threads: int | None = None
    """Loader threads or workers; by default the number of processors, at most 16."""
    device: str = "auto"
    """cuda, cuda:N or cpu; auto takes a CUDA device if there is one."""


@contextlib.contextmanager
def open_images(parsed: BenchmarkLoader) -> Iterator[LongTailedDataset]:
    """Open the user's training images, or write made-up ones for the time of the benchmark."""
    if parsed.data_root is not None:
        from ..data.dataset import open_splits

        yield open_splits(parsed.data_root, lists=parsed.lists)["train"]
        return
    from ..benchmark.loader import photographs

    with tempfile.TemporaryDirectory() as folder:
        yield photographs(Path(folder) / "train", parsed.images)


def run(argv: Sequence[str]) -> None:
    """Run `fastlt benchmark loader`."""
    parsed = parse(BenchmarkLoader, argv, "benchmark loader")
    for flag, value in (
        ("--images", parsed.images),
        ("--batch-size", parsed.batch_size),
        ("--image-size", parsed.image_size),
    ):
        check_range(flag, value, low=1)
    if parsed.data_root is None and parsed.images < max(10, parsed.batch_size):
        raise ValueError(
            f"--images: got {parsed.images}; expected at least 10 and a batch ({parsed.batch_size}): give more, or "
            "a smaller --batch-size"
        )
    from ..benchmark.loader import measure
    from ..hardware import describe_machine, resolve_device, resolve_threads

    device, threads = resolve_device(parsed.device), resolve_threads(parsed.num_threads)
    results = []
    with open_images(parsed) as dataset:
        num_images = len(dataset)
        for result in measure(
            dataset, device=device, batch_size=parsed.batch_size, image_size=parsed.image_size, num_threads=threads
        ):
            results.append(result)
            rate = result.images_per_s
            say(f"{result.name}: {result.error if rate is None else f'{rate:,.0f} img/s'}")
    plain = next((result.images_per_s for result in results if result.name == "plain DataLoader"), None)
    table = Table("stage or loader", "threads", "img/s", "x plain DataLoader")
    for result in results:
        if result.images_per_s is not None:
            ratio = f"{result.images_per_s / plain:.2f}" if plain and not result.is_stage else "-"
            table.add_row(result.name, str(result.num_threads), f"{result.images_per_s:,.0f}", ratio)
    console.print(table)
    machine = describe_machine(device)
    say(f"{num_images:,} images, batch {parsed.batch_size}, {parsed.image_size} pixels, {machine['device']}")
    rows = [dataclasses.asdict(result) for result in results]
    write_output(parsed.json, {"machine": machine, "num_images": num_images, "results": rows})
