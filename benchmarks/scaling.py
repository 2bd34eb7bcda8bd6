"""What a run costs where, from a model of its bounds: `python -m benchmarks.scaling` writes results/scaling.md.

The model has three terms, and the largest is the time: the step's own, decoding on the processors, and, on several
GPUs, the gradients over the links. Where `python -m benchmarks.scaling_fit` was run on a machine, its step is the fit
of what was timed there; elsewhere it is the bytes that a step moves (`fastlt.timing.traffic`) over a share of the
memory's bandwidth. Other rates are inputs, in MACHINES and DECODE_PER_CORE; each says where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.scaling_fit import RESULTS, operations
from fastlt.models import create_model
from fastlt.report.markdown import rows
from fastlt.timing.traffic import BYTES, count_elements, training_bytes

OUT = RESULTS / "scaling.md"
DECODE_PER_CORE = 690.0  # images/s: 500 x 375 JPEGs with Pillow on one core of an AMD EPYC, `fastlt benchmark loader`


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine by its rates. `share` is the part of the bandwidth that steps are assumed to reach."""

    name: str
    num_devices: int
    bandwidth: float  # bytes/s a device
    link: float  # bytes/s a device sends in an all-reduce
    num_cores: int
    share: float = 0.7
    precision: str = "bf16"
    fitted: str = ""  # the device whose fit stands for the step, where there is one


MACHINES = (
    Machine(name="1 x H200", num_devices=1, bandwidth=4.3e12, link=0, num_cores=16, fitted="cuda"),
    Machine(name="8 x H200", num_devices=8, bandwidth=4.3e12, link=300e9, num_cores=128),
    Machine(name="1 x 4090 class", num_devices=1, bandwidth=0.95e12, link=0, num_cores=16),
    Machine(name="2 cores, no GPU", num_devices=1, bandwidth=13e9, link=0, num_cores=2, share=0.1, fitted="cpu"),
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A benchmark of the paper."""

    name: str
    backbone: str
    num_images: int
    num_classes: int
    epochs: int
    num_stage1: int = 4
    image_size: int = 224


JOBS = (
    Job(name="ImageNet-LT", backbone="resnext50_32x4d", num_images=115_846, num_classes=1000, epochs=90),
    Job(name="iNaturalist 2018", backbone="resnet50", num_images=437_513, num_classes=8142, epochs=200),
    Job(name="Places-LT", backbone="resnet152", num_images=62_500, num_classes=365, epochs=30),
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Images a second, and what bounds them."""

    images_per_s: float
    bound: str


def newest_fit(device: str) -> dict[str, Any] | None:
    """Return the newest record of `benchmarks.scaling_fit` on a device, or None."""
    files = sorted(RESULTS.glob(f"scaling-{device}-*.json")) if device else []
    found: dict[str, Any] | None = json.loads(files[-1].read_text()) if files else None
    return found


def step_seconds(fit: Mapping[str, Any], per_image: float, job: Job) -> float:
    """Return the fitted seconds of an image's training step, in large batches."""
    memory = per_image / fit["bytes_per_s"] if fit["bytes_per_s"] else 0.0
    arithmetic = operations(job.backbone, job.image_size) / fit["operations_per_s"] if fit["operations_per_s"] else 0.0
    return memory + arithmetic


def cost(machine: Machine, job: Job) -> Cost:
    """Return the rate at which a machine trains, and its bound."""
    model = create_model(job.backbone, job.num_classes)
    per_image = training_bytes(model, job.image_size, machine.precision)
    fit = newest_fit(machine.fitted)
    if fit is None:
        rates = {"bandwidth": machine.num_devices * machine.share * machine.bandwidth / per_image}
    else:
        rates = {"step (fitted)": 1 / step_seconds(fit, per_image, job)}
    rates["decoding"] = machine.num_cores * DECODE_PER_CORE
    if machine.num_devices > 1:
        gradient_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
        n = machine.num_devices
        batch = 512
        rates["network"] = batch * machine.link / (2 * (n - 1) / n * gradient_bytes)
    bound = min(rates, key=lambda name: rates[name])
    return Cost(images_per_s=rates[bound], bound=bound)


def activation_bytes(backbone: str, image_size: int) -> float:
    """Return the bytes that one image keeps for the backward pass in bf16: every convolution's input and output."""
    inputs, outputs, _ = count_elements(create_model(backbone, 10), image_size)
    return float(BYTES["bf16"] * (inputs + outputs))


def duration(seconds: float) -> str:
    """Return seconds in the unit that reads best."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


INTRO = """\
The table is **modelled**, its last row of each data set from a fit to steps timed on that machine, the others from
rates: `python -m benchmarks.scaling`. A step takes the longest of three: its own time, decoding, gradients over the
links. Rates: an H200 moves 4.3 TB/s (measured with a copy), a 4090 0.95 TB/s and the links 300 GB/s (assumed); steps
reach 70 % of it (assumed); a core decodes {decode:.0f} photographs a second (measured: Pillow, 500 x 375 JPEG, one
core of an AMD EPYC).
`fastlt benchmark step` and `fastlt benchmark loader` give your machine's rates. Every layer is trained; Places-LT as
the paper has it trains the last block only and costs less.
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
            found = cost(machine, job)
            epoch = job.num_images / found.images_per_s
            cells = [f"{job.name}, {job.backbone}", machine.name, f"{found.images_per_s:,.0f}", found.bound]
            cells += [duration(epoch), f"{job.epochs} epochs: {duration(job.epochs * epoch)}"]
            cells += [duration(job.num_stage1 * job.epochs * epoch)]
            lines.append(cells)
    yield from rows(heads, lines, left=(0, 1, 3))


def measured() -> Iterator[str]:
    """Yield the lines of what was timed, beside the model fitted to it."""
    for device in ("cpu", "cuda"):
        fit = newest_fit(device)
        if fit is None:
            continue
        yield f"## Measured: {fit['hardware']}\n"
        yield f"`{fit['command']}`, {fit['date']}, PyTorch {fit['torch']}. {law(fit)}\n"
        heads = ("network", "pixels", "images a step", "measured, s", "modelled, s", "predicted from the others")
        lines = []
        for point in fit["points"]:
            cells = [point["backbone"], str(point["image_size"]), str(point["batch_size"]), f"{point['seconds']:.3f}"]
            cells += [f"{point['modelled_s']:.3f}", f"{100 * point['error_from_the_others']:+.0f} %"]
            lines.append(cells)
        yield from rows(heads, lines)
        yield ""


def law(fit: Mapping[str, Any]) -> str:
    """Return a fit in words."""
    terms = []
    if fit["bytes_per_s"]:
        terms.append(f"bytes at {fit['bytes_per_s'] / 1e9:,.1f} GB/s")
    if fit["operations_per_s"]:
        terms.append(f"operations at {fit['operations_per_s'] / 1e9:,.0f} GFLOP/s")
    if fit["seconds_a_step"]:
        terms.append(f"{1000 * fit['seconds_a_step']:.1f} ms a step")
    apart = median(abs(point["error_from_the_others"]) for point in fit["points"])
    off = f"each step, predicted from a fit to the others, is off by {100 * apart:.0f} % in the median"
    return f"A step takes {' plus '.join(terms)}; {off}."


def page() -> str:
    """Return the page."""
    h200, resnext = MACHINES[0], create_model("resnext50_32x4d", 1000)
    names = ("resnet50", "resnext50_32x4d", "resnext101_32x4d", "resnet152")
    growth = GROWTH.format(
        memory=", ".join(f"{name} {activation_bytes(name, 224) / 1e6:.0f}" for name in names),
        asked=h200.share * h200.bandwidth / training_bytes(resnext, 224, h200.precision),
        cores=h200.num_cores,
        decode=h200.num_cores * DECODE_PER_CORE,
    )
    return "\n".join(["# What a run costs\n", INTRO.format(decode=DECODE_PER_CORE), *costs(), "", *measured(), growth])


def main() -> None:
    """Write the page."""
    OUT.write_text(page(), encoding="utf-8")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
