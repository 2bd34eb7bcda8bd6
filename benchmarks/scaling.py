"""Estimate what a run costs: `python -m benchmarks.scaling` writes results/scaling.md from the newest records.

A step takes the longest of three times: its own, that of decoding on the processors and, on several GPUs, that of
sending the gradients. Its own time follows a law fitted to timed steps: images x (bytes / R + operations / F) + c,
where R is the memory's rate, F the arithmetic's and c what a step costs whatever its size. `--measure cpu` (or `cuda`)
times steps of many sizes on this machine and writes a record with the law. For a machine without a record, the time is
the bytes that a step moves (`fastlt.timing.traffic`) over a share of the memory's bandwidth. The rates are in MACHINES
and DECODE_PER_CORE.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch.utils.flop_counter import FlopCounterMode

from fastlt.models import create_model
from fastlt.report.markdown import rows
from fastlt.runtime.machine import keep_freed_memory, processors
from fastlt.timing.batches import NUM_CLASSES
from fastlt.timing.step import build
from fastlt.timing.traffic import BYTES, count_elements, median_s, training_bytes

from . import records
from .records import RESULTS

DECODE_PER_CORE = 690.0  # images/s: 500 x 375 JPEGs with Pillow on one core of an AMD EPYC, `fastlt benchmark loader`
BANDWIDTH_SHARE = 0.7  # of the memory's bandwidth, that a step is assumed to reach
GRADIENT_BATCH = 512  # images per step, over all GPUs
REPEATS = 5  # timed steps a size; the median counts
SIZES = {
    "cpu": (
        ("resnet8", 32, 128),
        ("resnet8", 64, 32),
        ("resnet10", 64, 32),
        ("resnet10", 112, 16),
        ("resnet10", 224, 4),
        ("resnet50", 64, 16),
        ("resnet50", 112, 8),
        ("resnet50", 224, 4),
        ("resnext50_32x4d", 112, 8),
        ("resnext50_32x4d", 224, 4),
    ),
    "cuda": tuple(
        (backbone, size, batch)
        for backbone in ("resnet10", "resnet50", "resnext50_32x4d", "resnet152")
        for size, batch in ((112, 256), (224, 64), (224, 256))
    ),
}
"""What `--measure` times: network, side of an image in pixels, images a step."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine by its rates."""

    name: str
    num_devices: int = 1
    bandwidth: float  # bytes/s a device
    link: float = 0.0  # bytes/s a device sends in an all-reduce
    num_cores: int
    share: float = BANDWIDTH_SHARE
    record: str = ""  # cpu or cuda: whose fitted law holds for its step, where there is a record


MACHINES = (
    Machine(name="1 x H200", bandwidth=4.3e12, num_cores=16, record="cuda"),
    Machine(name="8 x H200", num_devices=8, bandwidth=4.3e12, link=300e9, num_cores=128),
    Machine(name="1 x 4090 class", bandwidth=0.95e12, num_cores=16),
    Machine(name="2 cores, no GPU", bandwidth=13e9, num_cores=2, share=0.1, record="cpu"),
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A benchmark of the paper."""

    name: str
    backbone: str
    num_images: int
    num_classes: int
    epochs: int


JOBS = (
    Job(name="ImageNet-LT", backbone="resnext50_32x4d", num_images=115_846, num_classes=1000, epochs=90),
    Job(name="iNaturalist 2018", backbone="resnet50", num_images=437_513, num_classes=8142, epochs=200),
    Job(name="Places-LT", backbone="resnet152", num_images=62_500, num_classes=365, epochs=30),
)
NUM_SAMPLINGS = 4  # trainings of `fastlt reproduce`
IMAGE_SIZE = 224


@dataclass(frozen=True, kw_only=True)
class Point:
    """A timed step."""

    backbone: str
    image_size: int
    batch_size: int
    bytes_per_image: float
    operations_per_image: float
    seconds: float

    def terms(self) -> NDArray[np.float64]:
        """Return what multiplies (1 / R, 1 / F, c)."""
        return np.array([self.batch_size * self.bytes_per_image, self.batch_size * self.operations_per_image, 1.0])


def operations(backbone: str, image_size: int) -> float:
    """Return the floating-point operations of one image's training step: three times the forward pass's."""
    model = create_model(backbone, NUM_CLASSES).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    return 3.0 * counter.get_total_flops()


def time_step(backbone: str, image_size: int, batch_size: int, *, device: torch.device, repeats: int) -> Point:
    """Time one step."""
    variant = "fastlt" if device.type == "cuda" else "fastlt eager"  # compiling each size would take most of the time
    step, precision = build(backbone, variant, device=device, batch_size=batch_size, image_size=image_size)
    seconds = median_s(step, device, repeats=repeats, warmup=2)
    return Point(
        backbone=backbone,
        image_size=image_size,
        batch_size=batch_size,
        bytes_per_image=training_bytes(create_model(backbone, NUM_CLASSES), image_size, precision),
        operations_per_image=operations(backbone, image_size),
        seconds=seconds,
    )


def fit(points: list[Point]) -> NDArray[np.float64]:
    """Return (1 / R, 1 / F, c), none below 0, with the least squares of relative errors."""
    terms = np.stack([point.terms() / point.seconds for point in points])
    scale = np.linalg.norm(terms, axis=0)  # the three differ by many orders of magnitude
    scaled, _ = nnls(terms / scale, np.ones(len(points)))
    solution: NDArray[np.float64] = scaled / scale
    return solution


def errors(points: list[Point]) -> list[float]:
    """Return, for every point, the relative error of its prediction from a fit to the others."""
    others = [points[:index] + points[index + 1 :] for index in range(len(points))]
    return [float(point.terms() @ fit(rest) / point.seconds - 1) for point, rest in zip(points, others, strict=True)]


def record_of(points: list[Point], device: torch.device) -> dict[str, Any]:
    """Return points and fit as JSON values."""
    solution = fit(points)
    memory, arithmetic = (None if value == 0 else 1 / value for value in solution[:2])
    return {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else processors(),
        "torch": torch.__version__,
        "bytes_per_s": memory,
        "operations_per_s": arithmetic,
        "seconds_a_step": float(solution[2]),
        "points": [
            dataclasses.asdict(point) | {"modelled_s": float(point.terms() @ solution), "error_from_the_others": error}
            for point, error in zip(points, errors(points), strict=True)
        ],
    }


def measure(device: torch.device) -> None:
    """Time steps of all sizes and write the record."""
    if device.type == "cpu":
        keep_freed_memory()
    points = []
    for backbone, image_size, batch_size in SIZES[device.type]:
        points.append(time_step(backbone, image_size, batch_size, device=device, repeats=REPEATS))
        print(f"{backbone} {image_size} x {batch_size}: {points[-1].seconds:.3f} s", flush=True)
    record = record_of(points, device)
    records.write(f"scaling-{device.type}", record["date"], record)


def rate(machine: Machine, job: Job) -> tuple[float, str]:
    """Return the images a second at which a machine trains, and what bounds them."""
    model = create_model(job.backbone, job.num_classes)
    per_image = training_bytes(model, IMAGE_SIZE, "bf16")
    law = records.newest(f"scaling-{machine.record}", RESULTS)
    if law is None:
        rates = {"bandwidth": machine.num_devices * machine.share * machine.bandwidth / per_image}
    else:
        moving = per_image / (law["bytes_per_s"] or np.inf)
        arithmetic = operations(job.backbone, IMAGE_SIZE) / (law["operations_per_s"] or np.inf)
        rates = {"step (fitted)": 1 / (moving + arithmetic)}
    rates["decoding"] = machine.num_cores * DECODE_PER_CORE
    if machine.num_devices > 1:
        gradient_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
        sent = 2 * (machine.num_devices - 1) / machine.num_devices * gradient_bytes
        rates["network"] = GRADIENT_BATCH * machine.link / sent
    bound = min(rates, key=lambda name: rates[name])
    return rates[bound], bound


def activation_bytes(backbone: str) -> float:
    """Return the bytes that one image keeps for the backward pass in bf16: every convolution's input and output."""
    inputs, outputs, _ = count_elements(create_model(backbone, 10), IMAGE_SIZE)
    return float(BYTES["bf16"] * (inputs + outputs))


def duration(seconds: float) -> str:
    """Return seconds in the unit that reads best."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


INTRO = """\
**This is an estimate: nobody has made these runs.** Only the steps under "Timed steps" were measured; the rest is a
model. A step takes the longest of three times: its own, decoding, and sending the gradients. Rates: an H200 moves
4.3 TB/s (measured with a copy), a 4090 0.95 TB/s and the links 300 GB/s (assumed); steps reach {share} % of the
memory's bandwidth (assumed); a core decodes {decode:.0f} photographs a second (measured: Pillow, 500 x 375 JPEG, one
core of an AMD EPYC).

`python -m benchmarks.scaling` writes this page; with `--measure cpu` or `--measure cuda` it times steps on your machine
first. `fastlt benchmark step` and `fastlt benchmark loader` give the rates of your machine. Every layer is trained;
Places-LT as the paper has it trains the last block only and costs less.
"""
GROWTH = """\
## What grows with what

- Images: linear in time; the order costs 4 bytes an image, the features 4 D bytes an image on disk.
- Classes: the classifier's product, and its weights, gradients and momentum: 3 x 4 C D bytes (200 MB at 8142 x 2048);
  nothing of size images x classes is kept.
- Image size: time and memory with its square. Kept for the backward pass, MB an image at 224 pixels: {memory}.
- GPUs: linear until decoding or the links bound it. An H200 asks for {asked:,.0f} img/s of ResNeXt-50 and {cores} cores
  decode {decode:,.0f}, with nothing left for cropping: decoding comes next. What helps: `fastlt data pack --short-side
  256`, decoding on the GPU through DALI, `--loader memory` for sets that fit.
"""


def costs() -> Iterator[str]:
    """Yield the lines of the table."""
    heads = ("data set, network", "machine", "img/s", "bound by", "an epoch", "the run", "reproduce (4 samplings)")
    lines = []
    for job in JOBS:
        for machine in MACHINES:
            images_per_s, bound = rate(machine, job)
            epoch = job.num_images / images_per_s
            cells = [f"{job.name}, {job.backbone}", machine.name, f"{images_per_s:,.0f}", bound]
            cells += [duration(epoch), f"{job.epochs} epochs: {duration(job.epochs * epoch)}"]
            cells += [duration(NUM_SAMPLINGS * job.epochs * epoch)]
            lines.append(cells)
    yield from rows(heads, lines, left=(0, 1, 3))


def timed_steps() -> Iterator[str]:
    """Yield the lines of what was timed, beside the law fitted to it."""
    for device in SIZES:
        record = records.newest(f"scaling-{device}", RESULTS)
        if record is None:
            continue
        yield f"## Timed steps: {record['hardware']}\n"
        yield f"`--measure {device}`, {record['date']}, PyTorch {record['torch']}. {law_in_words(record)}\n"
        heads = ("network", "pixels", "images a step", "measured, s", "modelled, s", "predicted from the others")
        lines = []
        for point in record["points"]:
            cells = [point["backbone"], str(point["image_size"]), str(point["batch_size"]), f"{point['seconds']:.3f}"]
            cells += [f"{point['modelled_s']:.3f}", f"{100 * point['error_from_the_others']:+.0f} %"]
            lines.append(cells)
        yield from rows(heads, lines)
        yield ""


def law_in_words(record: Mapping[str, Any]) -> str:
    """Return the fitted law, and how far off it is."""
    terms = []
    if record["bytes_per_s"]:
        terms.append(f"bytes at {record['bytes_per_s'] / 1e9:,.1f} GB/s")
    if record["operations_per_s"]:
        terms.append(f"operations at {record['operations_per_s'] / 1e9:,.0f} GFLOP/s")
    if record["seconds_a_step"]:
        terms.append(f"{1000 * record['seconds_a_step']:.1f} ms a step")
    error = median(abs(point["error_from_the_others"]) for point in record["points"])
    off = f"predicted from a fit to the others, a step is off by {100 * error:.0f} % in the median"
    return f"A step takes {' plus '.join(terms)}; {off}."


def page() -> str:
    """Return the page."""
    h200, resnext = MACHINES[0], create_model("resnext50_32x4d", 1000)
    names = ("resnet50", "resnext50_32x4d", "resnext101_32x4d", "resnet152")
    growth = GROWTH.format(
        memory=", ".join(f"{name} {activation_bytes(name) / 1e6:.0f}" for name in names),
        asked=h200.share * h200.bandwidth / training_bytes(resnext, IMAGE_SIZE, "bf16"),
        cores=h200.num_cores,
        decode=h200.num_cores * DECODE_PER_CORE,
    )
    intro = INTRO.format(decode=DECODE_PER_CORE, share=round(100 * BANDWIDTH_SHARE))
    return "\n".join(["# What a run costs: an estimate\n", intro, *costs(), "", *timed_steps(), growth])


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Estimate what a run costs."""

    measure: Literal["cpu", "cuda"] | None = None
    """Time steps of many sizes on this machine first."""


def main() -> None:
    """Write the page."""
    arguments = tyro.cli(Arguments)
    if arguments.measure is not None:
        measure(torch.device(arguments.measure))
    text = page()
    (RESULTS / "scaling.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
