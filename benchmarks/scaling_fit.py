"""Time training steps of many sizes and fit the page's model to them: `python -m benchmarks.scaling_fit`.

Seconds a step = images x (bytes / R + operations / F) + c: R the memory's rate, F the arithmetic's, c what a step costs
whatever its size. Non-negative least squares on relative errors; each point is also predicted from a fit to the others.
Writes results/scaling-<device>-<date>.json, which `python -m benchmarks.scaling` turns into the page's measured part.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch.utils.flop_counter import FlopCounterMode

from fastlt.models import create_model
from fastlt.runtime.machine import keep_freed_memory, processors
from fastlt.timing.batches import NUM_CLASSES
from fastlt.timing.step import build
from fastlt.timing.traffic import median_s, training_bytes

RESULTS = Path(__file__).parent / "results"
POINTS = {
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
"""(network, side of an image in pixels, images a step)."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured step."""

    backbone: str
    image_size: int
    batch_size: int
    bytes_per_image: float
    operations_per_image: float
    seconds: float

    def row(self) -> NDArray[np.float64]:
        """Return what multiplies (1 / R, 1 / F, c)."""
        return np.array([self.batch_size * self.bytes_per_image, self.batch_size * self.operations_per_image, 1.0])


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Time training steps of many sizes and fit a model to them."""

    device: str = "cpu"
    """cpu or cuda."""
    repeats: int = 5
    """Timed steps a point; the median counts."""
    out: Path = RESULTS
    """Folder of the record."""


def operations(backbone: str, image_size: int) -> float:
    """Return the floating-point operations of one image's training step: three times the forward pass's."""
    model = create_model(backbone, NUM_CLASSES).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    return 3.0 * counter.get_total_flops()


def measure(backbone: str, image_size: int, batch_size: int, *, device: torch.device, repeats: int) -> Point:
    """Time one step."""
    variant = "fastlt" if device.type == "cuda" else "fastlt eager"  # compiling each size would take most of the time
    step, precision = build(backbone, variant, device=device, batch_size=batch_size, image_size=image_size)
    seconds = median_s(step, device, repeats=repeats, warmup=2)
    per_image = training_bytes(create_model(backbone, NUM_CLASSES), image_size, precision)
    return Point(
        backbone=backbone,
        image_size=image_size,
        batch_size=batch_size,
        bytes_per_image=per_image,
        operations_per_image=operations(backbone, image_size),
        seconds=seconds,
    )


def fit(points: list[Point]) -> NDArray[np.float64]:
    """Return (1 / R, 1 / F, c), none below 0, with the least squares of relative errors."""
    rows = np.stack([point.row() / point.seconds for point in points])
    scale = np.linalg.norm(rows, axis=0)  # the three differ by many orders of magnitude
    found, _ = nnls(rows / scale, np.ones(len(points)))
    solution: NDArray[np.float64] = found / scale
    return solution


def errors(points: list[Point]) -> list[float]:
    """Return, for every point, the relative error of its prediction from a fit to the others."""
    found = []
    for index, point in enumerate(points):
        rest = fit(points[:index] + points[index + 1 :])
        found.append(float(point.row() @ rest / point.seconds - 1))
    return found


def record(points: list[Point], device: torch.device) -> dict[str, Any]:
    """Return points and fit as JSON values."""
    solution = fit(points)
    rates = [None if value == 0 else 1 / value for value in solution[:2]]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processors()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python -m benchmarks.scaling_fit --device {device.type}",
        "hardware": name,
        "torch": torch.__version__,
        "bytes_per_s": rates[0],
        "operations_per_s": rates[1],
        "seconds_a_step": float(solution[2]),
        "points": [
            dataclasses.asdict(point) | {"modelled_s": float(point.row() @ solution), "error_from_the_others": error}
            for point, error in zip(points, errors(points), strict=True)
        ],
    }


def main() -> None:
    """Measure, fit and write."""
    arguments = tyro.cli(Arguments)
    device = torch.device(arguments.device)
    if device.type == "cpu":
        keep_freed_memory()
    points = []
    for backbone, image_size, batch_size in POINTS[device.type]:
        points.append(measure(backbone, image_size, batch_size, device=device, repeats=arguments.repeats))
        print(f"{backbone} {image_size} x {batch_size}: {points[-1].seconds:.3f} s", flush=True)
    content = record(points, device)
    path = arguments.out / f"scaling-{device.type}-{content['date']}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
