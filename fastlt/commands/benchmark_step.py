"""`fastlt benchmark step`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated

from rich.table import Table

from ..config import check_choice, check_range
from ..config.base import Device
from .common import Output, console, parse, say, write_output

ON_CPU, ON_CUDA = (("resnet8",), 128, 32), (("resnet50", "resnext50_32x4d"), 256, 224)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkStep(Output):
    """Time the training step of each network under each variant."""

    backbones: tuple[Annotated[str, "NAME"], ...] = ()
    """Networks; by default resnet50 and resnext50_32x4d on a GPU, resnet8 on a CPU."""
    variants: tuple[Annotated[str, "NAME"], ...] = ()
    """Variants to time; by default all that differ on this device."""
    batch_size: int | None = None
    """Images per step; by default 256 on a GPU, 128 on a CPU."""
    image_size: int | None = None
    """Side of the images, pixels; by default 224 on a GPU, 32 on a CPU."""
    color_jitter: bool = True
    """Jitter colours in our step, as for ImageNet-LT; other libraries' steps never do."""
    repeats: int = 20
    """Timed rounds, whose median is reported."""
    device: Device = "auto"
    """Device to compute on; auto takes a CUDA device if there is one."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt benchmark step`."""
    parsed = parse(BenchmarkStep, argv, "benchmark step")
    from ..models import create_model
    from ..runtime.device import resolve_device
    from ..runtime.machine import describe_machine
    from ..timing.peers import PEERS
    from ..timing.step import VARIANTS, measure, worth_timing

    device = resolve_device(parsed.device)
    backbones, batch_size, image_size = ON_CUDA if device.type == "cuda" else ON_CPU
    batch_size = batch_size if parsed.batch_size is None else parsed.batch_size
    image_size = image_size if parsed.image_size is None else parsed.image_size
    for flag, value in (("--batch-size", batch_size), ("--image-size", image_size), ("--repeats", parsed.repeats)):
        check_range(flag, value, low=1)
    for name in parsed.variants:
        check_choice("--variants", name, VARIANTS)
    for name in parsed.backbones:  # before any of them is timed
        try:
            create_model(name, 2, image_size)
        except ValueError as error:
            raise ValueError(re.sub(r"--backbone\b", "--backbones", str(error))) from None
    machine = describe_machine(device)
    settings = {
        "machine": machine,
        "batch_size": batch_size,
        "image_size": image_size,
        "color_jitter": parsed.color_jitter,
    }
    results = []
    table = Table("network", "step", "img/s", "GiB", "of the bandwidth ceiling, %", "x plain")
    plain: dict[str, float] = {}
    for result in measure(
        parsed.backbones or backbones,
        variants=parsed.variants or worth_timing(device),
        device=device,
        batch_size=batch_size,
        image_size=image_size,
        color_jitter=parsed.color_jitter,
        repeats=parsed.repeats,
    ):
        results.append(result)
        rows = [dataclasses.asdict(each) for each in results]
        write_output(parsed.json, settings | {"results": rows})  # an interrupted run keeps its results
        rate = result.images_per_s
        say(f"{result.backbone}, {result.variant}: {result.error if rate is None else f'{rate:,.0f} img/s'}")
        if rate is None or result.bandwidth_share is None:
            table.add_row(result.backbone, result.variant, "-", "-", "-", str(result.error))
            continue
        if result.variant == "plain":
            plain[result.backbone] = rate
        memory = "-" if result.peak_gib is None else f"{result.peak_gib:.1f}"
        ratio = f"{rate / plain[result.backbone]:.2f}" if result.backbone in plain else "-"
        table.add_row(
            result.backbone, result.variant, f"{rate:,.0f}", memory, f"{100 * result.bandwidth_share:.0f}", ratio
        )
    console.print(table)
    rates = {(result.backbone, result.variant): result.images_per_s for result in results}
    for (backbone, peer), peer_rate in rates.items():
        ours = rates.get((backbone, "fastlt"))
        if peer in PEERS and PEERS[peer].library and ours and peer_rate:
            say(f"{backbone}: fastlt makes {ours / peer_rate:.2f} x the images of {peer}")
    say(f"batch {batch_size}, {image_size} pixels, {machine['device']}; medians of {parsed.repeats} rounds")
