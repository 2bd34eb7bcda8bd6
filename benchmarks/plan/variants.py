"""Print what a training step of ResNeXt-50 launches and moves on an H200, by Inductor's plan; none is needed.

    python -m benchmarks.plan                               # the whole network, all variants: minutes
    python -m benchmarks.plan --blocks 1 1 1 1 --out FILE

For each variant of the step: launches, bytes an image, and both by kind of kernel. See `launches` for what is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastlt.config import TrainConfig
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.models.resnet import SPECS, ResNet
from fastlt.runtime.compiling import Compiler
from fastlt.training.step import StepInput, TrainingLoss

from ..gpu.candidates import BY_INDUCTOR, CANDIDATES, GATHERED, TOGETHER, settings_of
from .fake_gpu import DEVICE, Lowered, lowering, on_the_card
from .launches import launches, not_channels_last

LIBRARIES = ("convolution", "product", "other")
BATCH, SIZE, NUM_CLASSES = 256, 224, 1000
SMALL = 4_000_000  # bytes that a GPU moves in a microsecond, less than it takes to start a kernel


VARIANTS: dict[str, tuple[str, ...]] = {
    "before": (BY_INDUCTOR,),
    "default": (),
    "batch norm": ("batch norm by kernel",),
    "combo kernels": ("combo kernels",),
    "max pool": (GATHERED,),
    "together": (TOGETHER,),
}
"""Candidates of the GPU benchmark that a variant of the step has."""


def plan(candidates: tuple[str, ...], blocks: tuple[int, ...]) -> list[Any]:
    """Return the lowered graphs of a step, forward and backward."""
    config = TrainConfig(lr=0.1, precision="bf16")
    with torch.device("meta"):
        spec = SPECS["resnext50_32x4d"]
        spec = dataclasses.replace(spec, blocks=blocks, widths=spec.widths[: len(blocks)])
        network = ResNet(spec, NUM_CLASSES).to(memory_format=torch.channels_last)
        preprocess = Preprocess(config.mean, config.std)
    torch._dynamo.reset()
    with contextlib.ExitStack() as stack:
        for candidate in candidates:
            stack.enter_context(settings_of(candidate))
            rewrite = CANDIDATES.get(candidate)
            if rewrite is not None:
                rewrite(network)
        graphs = stack.enter_context(lowering())
        stack.enter_context(FakeTensorMode())
        loss = TrainingLoss(on_the_card(network), on_the_card(preprocess), config, DEVICE)
        batch = StepInput(
            images=torch.empty(BATCH, SIZE, SIZE, 3, dtype=torch.uint8, device=DEVICE),
            labels=torch.empty(BATCH, dtype=torch.int64, device=DEVICE),
            jitter=torch.empty(BATCH, 3, device=DEVICE),
            order=torch.empty(BATCH, dtype=torch.uint8, device=DEVICE),
        )
        with contextlib.suppress(Lowered):
            torch.compile(loss.forward, dynamic=False, options=Compiler().options)(batch)
    return graphs


def row(variant: str, lowered: list[Any]) -> dict[str, Any]:
    """Return what a variant launches and moves: by kind of kernel, and in all."""
    found = [launch for graph in lowered for launch in launches(graph)]
    kinds = {launch.kind: [other for other in found if other.kind == launch.kind] for launch in found}
    return {
        "variant": variant,
        "kinds": {
            kind: {"launches": len(group), "mb_an_image": sum(one.num_bytes for one in group) / BATCH / 1e6}
            for kind, group in sorted(kinds.items())
        },
        "launches": sum(launch.kind not in LIBRARIES for launch in found),
        "small_launches": sum(launch.kind not in LIBRARIES and launch.num_bytes < SMALL for launch in found),
        "library_launches": sum(launch.kind in LIBRARIES for launch in found),
        "mb_an_image": sum(launch.num_bytes for launch in found) / BATCH / 1e6,
        "not_channels_last": [name for graph in lowered for name in not_channels_last(graph)],
    }


def show(row: dict[str, Any]) -> None:
    """Print a row of `row`."""
    print(
        f"{row['variant']}: {row['mb_an_image']:.0f} MB an image; {row['launches']} launches, "
        f"{row['small_launches']} of them under {SMALL / 1e6:g} MB, and {row['library_launches']} of libraries; "
        f"{len(row['not_channels_last'])} convolutions not in channels_last"
    )
    for kind, group in row["kinds"].items():
        print(f"    {kind:32} {group['launches']:4} launches {group['mb_an_image']:7.1f} MB an image", flush=True)


def main() -> None:
    """Plan the variants, print them, and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--blocks", type=int, nargs="+", default=SPECS["resnext50_32x4d"].blocks, help="in each stage")
    parser.add_argument("--out", type=Path, help="a JSON file")
    args = parser.parse_args()
    rows = []
    for name in args.variants:
        lowered = plan(VARIANTS[name], tuple(args.blocks))
        rows.append(row(name, lowered))
        show(rows[-1])
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
