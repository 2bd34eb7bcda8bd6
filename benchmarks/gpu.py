"""Everything that needs a GPU, in one command under nine minutes: correctness first, then the figures.

    python -m benchmarks.gpu --out DIR                    # on a GPU
    python -m benchmarks.gpu --out DIR --device cpu --quick   # the same parts, small, to see that they run

Each part is a process of its own with a time limit, and writes its JSON into --out as soon as it ends, so that what
was measured survives what fails; a wrong kernel stops everything, since only what is right gets timed. Works with torch
2.11 and triton 3.6, and with torch 2.13 and triton 3.7. Without DALI its loader is left out; with torchvision its
networks are timed in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("resnet50", "resnext50_32x4d", "resnext101_32x4d", "resnet152")
LIMIT_S = 520
Arguments = argparse.Namespace


def run(name: str, args: Arguments, *command: str, limit_s: float) -> int:
    """Run a Python command of the repository, its output to the screen and to NAME.txt; 124 when the time is up."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET" or args.device == "cpu"}
    began = time.monotonic()
    with (args.out / f"{name}.txt").open("w") as log:
        try:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=limit_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            done = 124
    print(f"{name}: {'ok' if done == 0 else f'status {done}'}, {time.monotonic() - began:.0f} s", flush=True)
    return done


def time_ms(step: Callable[[], Any], repeats: int = 200) -> float:
    """Return milliseconds a call on the GPU."""
    import torch

    for _ in range(20):
        step()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats


def part_lws(args: Arguments) -> dict[str, Any]:
    """Learnable weight scaling's step at N = 512, C = 8142, D = 2048: eager, compiled, fused, under a CUDA graph."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from fastlt import ops

    if args.device == "cpu":
        return {"skipped": "CUDA events and graphs need a GPU"}
    x, w = (torch.randn(n, 2048, device="cuda", dtype=torch.bfloat16) for n in (512, 8142))
    y = torch.randint(0, 8142, (512,), device="cuda")
    bias, scale = torch.zeros(8142, device="cuda"), torch.ones(8142, device="cuda", requires_grad=True)

    def eager(scale: Tensor) -> Tensor:
        return F.cross_entropy((F.linear(x, w) + bias) * scale, y)

    def fused(scale: Tensor) -> Tensor:
        return ops.scaled_cross_entropy(x, w, y, scale=scale, bias=bias)

    losses = {"eager": eager, "torch.compile": torch.compile(eager), "fastlt": fused}
    times = {name: time_ms(lambda loss=loss: torch.autograd.grad(loss(scale), scale)) for name, loss in losses.items()}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(fused(scale), scale)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.autograd.grad(fused(scale), scale)
    times["fastlt, CUDA graph"] = time_ms(graph.replay)
    times["product"] = time_ms(lambda: x @ w.T)
    return {"ms": times}


def part_end_to_end(args: Arguments) -> dict[str, Any]:
    """Images a second of the whole (loader and step) beside the step alone, with real JPEG files, in one process.

    ``plain`` and ``plain bf16`` are the trainer that a first script would be, eager and NCHW: DataLoader and Pillow.
    """
    import torch

    from fastlt.benchmark.end_to_end import OurLoader, PlainLoader, rate
    from fastlt.benchmark.loader import photographs
    from fastlt.benchmark.step import build, chosen
    from fastlt.benchmark.traffic import median_s
    from fastlt.data.augmentation import Augmentation
    from fastlt.data.loader import train_loader
    from fastlt.data.sampler import LongTailSampler
    from fastlt.hardware import resolve_threads

    device = torch.device(args.device)
    backbone, batch, size, images, steps = "resnext50_32x4d", 256, 224, 4096, 100
    if args.quick:
        backbone, batch, size, images, steps = "resnet8", 16, 32, 64, 8
    found: dict[str, Any] = {"backbone": backbone, "batch_size": batch}
    with tempfile.TemporaryDirectory() as folder:
        dataset = photographs(Path(folder) / "train", images)
        sampler = LongTailSampler(dataset.labels, sampling="class_balanced", batch_size=batch)
        variant = "fastlt eager" if args.quick else "fastlt"
        with chosen(variant):
            step, found["precision"] = build(backbone, variant, device=device, batch_size=batch, image_size=size)
            alone = found["step_images_per_s"] = batch / median_s(step, device, repeats=20)
            for backend in ("memory", "dali", "pillow"):
                try:
                    loader = train_loader(
                        dataset, sampler, Augmentation(size=size), num_steps=2 * steps, device=device, backend=backend
                    )
                except ValueError as error:
                    found[backend] = {"error": str(error)}
                    continue
                with loader:
                    reached = rate(step, OurLoader(loader), device, num_steps=steps)
                found[backend] = {"images_per_s": reached, "share_of_step": reached / alone}
        del step
        plain = PlainLoader(
            dataset, device=device, batch_size=batch, image_size=size, num_workers=resolve_threads(None)
        )
        for variant in ("plain", "plain bf16"):
            with chosen(variant):
                step, _ = build(backbone, variant, device=device, batch_size=batch, image_size=size)
                found[variant] = {"images_per_s": rate(step, plain, device, num_steps=max(2, steps // 5))}
    return found


def part_loss_curve(args: Arguments) -> dict[str, Any]:
    """A few hundred steps of each network in bf16 and fp32 on the same learnable batches: their smoothed losses."""
    import torch

    from fastlt.benchmark.step import build

    device = torch.device(args.device)
    networks, batch, size, steps = (("resnet8",), 16, 32, 20) if args.quick else (NETWORKS, 64, 128, 300)
    found: dict[str, Any] = {}
    for backbone in networks:
        curves = {}
        for variant in ("fastlt eager", "fastlt fp32"):
            step, precision = build(backbone, variant, device=device, batch_size=batch, image_size=size)
            generator = torch.Generator(device).manual_seed(0)
            losses = []
            for _ in range(steps):
                labels = torch.randint(0, 10, (batch,), device=device, generator=generator)
                noise = torch.randint(0, 156, (batch, size, size, 3), device=device, generator=generator)
                images = (noise + 10 * labels[:, None, None, None]).to(torch.uint8)
                losses.append(step(images, labels))
            curves[precision] = torch.stack(losses).double().unfold(0, min(20, steps), min(20, steps)).mean(1)
        names = list(curves)
        gap = (curves[names[0]] - curves[names[-1]]).abs() / curves[names[-1]]
        found[backbone] = {name: curve.tolist() for name, curve in curves.items()} | {"largest_gap": gap.max().item()}
    return found


PARTS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "lws": part_lws,
    "end_to_end": part_end_to_end,
    "loss_curve": part_loss_curve,
}


def run_part(name: str, args: Arguments) -> None:
    """Run one part in this process and write its JSON."""
    import torch

    from fastlt.hardware import describe_machine

    found = {"machine": describe_machine(torch.device(args.device))} | PARTS[name](args)
    (args.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def run_all(args: Arguments) -> int:
    """Run every part, correctness first."""
    began = time.monotonic()

    def left() -> float:
        return max(10.0, LIMIT_S - (time.monotonic() - began))

    if run("correctness", args, "tests/kernels/correctness.py", "--device", args.device, limit_s=left()):
        print("a kernel is wrong: nothing is timed")
        return 1
    quick = ["--quick"] if args.quick else []
    common = ["--out", str(args.out), "--device", args.device, *quick]
    step = ["--device", args.device, "--json", str(args.out / "step.json")]
    step += ["--batch-size", "8", "--repeats", "2", "--variants", "plain", "fastlt eager"] if args.quick else []
    step += [] if args.quick else ["--backbones", *NETWORKS]
    loader = ["--device", args.device, "--json", str(args.out / "loader.json")]
    loader += ["--images", "16", "--batch-size", "8"] if args.quick else ["--images", "4096", "--batch-size", "256"]
    ops = ["--device", args.device, "--quick", "--out", str(args.out / "ops.json")]
    part = ["-m", "benchmarks.gpu", *common, "--part"]
    jobs = (
        ("ops", ["benchmarks/bench_ops.py", *ops], 120),
        ("lws", [*part, "lws"], 60),
        ("end_to_end", [*part, "end_to_end"], 120),
        ("step", ["-m", "fastlt", "benchmark", "step", *step], 240),
        ("loader", ["-m", "fastlt", "benchmark", "loader", *loader], 90),
        ("loss_curve", [*part, "loss_curve"], LIMIT_S),
    )
    statuses = [run(name, args, *command, limit_s=min(limit_s, left())) for name, command, limit_s in jobs]
    return int(any(statuses))


def main() -> int:
    """Run everything, or one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that the parts run")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--part", choices=list(PARTS), help="run this part only, in this process")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part:
        run_part(args.part, args)
        return 0
    return run_all(args)


if __name__ == "__main__":
    sys.exit(main())
