"""The parts of `python -m benchmarks.gpu` that are not commands of their own; each yields the figures it has so far."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NETWORKS = ("resnet50", "resnext50_32x4d", "resnext101_32x4d", "resnet152")
HEADLINE = "resnext50_32x4d"
BATCH, SIZE = 256, 224  # images of a step and their pixels: what is compiled ahead and what is timed
MATRIX = {
    "step": ((HEADLINE,), ("fastlt", "torchvision compiled", "channels_last bf16", "plain")),
    "switches": ((HEADLINE,), ("fastlt", "fastlt CUDA graphs", "fastlt deterministic", "fastlt NCHW")),
    "networks": (tuple(name for name in NETWORKS if name != HEADLINE), ("fastlt",)),
}
"""Networks and variants of the parts that time steps."""
Arguments = argparse.Namespace


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


def part_compile(args: Arguments) -> Iterator[dict[str, Any]]:
    """Compile the steps of the parts that `--ahead` names, before any is timed; yield the seconds that each took."""
    from .candidates import CANDIDATES, INDUCTOR
    from .compile_ahead import Step, compile_all

    if args.quick:
        steps, batch, size = [Step("resnet8", "plain"), Step(HEADLINE, "fastlt eager", "as it is")], 2, 32
    else:
        steps = []
        for name in args.ahead:  # in the order in which they are timed
            networks, variants = MATRIX.get(name, ((), ()))
            steps += [Step(network, variant) for network in networks for variant in variants]
            if name == "candidates":
                steps += [Step(HEADLINE, "fastlt", candidate) for candidate in (*CANDIDATES, *INDUCTOR)]
        steps = list(dict.fromkeys(step for step in steps if step.is_compiled))
        batch, size = BATCH, SIZE
    figures: dict[str, Any] = {"steps": []}
    for step, seconds, error in compile_all(steps, args.device, batch, size):
        figures["steps"].append(dataclasses.asdict(step) | ({"error": error} if error else {"seconds": seconds}))
        yield figures


def part_lws(args: Arguments) -> Iterator[dict[str, Any]]:
    """Learnable weight scaling's step at N = 512, C = 8142, D = 2048: eager, compiled, fused, under a CUDA graph."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from fastlt import ops
    from fastlt.runtime.compiling import compiled

    if args.device == "cpu":
        yield {"skipped": "CUDA events and graphs need a GPU"}
        return
    x, w = (torch.randn(n, 2048, device="cuda", dtype=torch.bfloat16) for n in (512, 8142))
    y = torch.randint(0, 8142, (512,), device="cuda")
    bias, scale = torch.zeros(8142, device="cuda"), torch.ones(8142, device="cuda", requires_grad=True)

    def eager(scale: Tensor) -> Tensor:
        return F.cross_entropy((F.linear(x, w) + bias) * scale, y)

    def fused(scale: Tensor) -> Tensor:
        return ops.scaled_cross_entropy(x, w, y, scale=scale, bias=bias)

    losses = {"fastlt": fused, "eager": eager, "torch.compile": compiled(eager)}
    times: dict[str, float] = {}
    for name, loss in losses.items():
        times[name] = time_ms(lambda loss=loss: torch.autograd.grad(loss(scale), scale))  # type: ignore[misc]
        yield {"ms": times}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(fused(scale), scale)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.autograd.grad(fused(scale), scale)
    times["fastlt, CUDA graph"] = time_ms(graph.replay)
    times["product"] = time_ms(lambda: x @ w.T)
    yield {"ms": times}


def part_end_to_end(args: Arguments) -> Iterator[dict[str, Any]]:
    """Loader and step together, images a second, beside the step alone; with real JPEG files, in one process.

    `plain` and `plain bf16` are what a first script would be: eager, NCHW, a DataLoader with Pillow.
    """
    import torch

    from fastlt.data.loaders.loader import train_loader
    from fastlt.data.sampler import LongTailSampler
    from fastlt.data.transforms.augmentation import Augmentation
    from fastlt.runtime.log import first_line
    from fastlt.runtime.machine import resolve_threads
    from fastlt.timing.end_to_end import OurLoader, PlainLoader, rate
    from fastlt.timing.loader import photographs
    from fastlt.timing.step import algorithms_of, build
    from fastlt.timing.traffic import median_s

    device = torch.device(args.device)
    backbone, batch, size, images, steps = HEADLINE, BATCH, SIZE, 4096, 40
    if args.quick:
        backbone, batch, size, images, steps = "resnet8", 16, 32, 64, 8
    figures: dict[str, Any] = {"backbone": backbone, "batch_size": batch}
    with tempfile.TemporaryDirectory() as folder:
        dataset = photographs(Path(folder) / "train", images)
        sampler = LongTailSampler(dataset.labels, sampling="class_balanced", batch_size=batch)
        variant = "fastlt eager" if args.quick else "fastlt"
        with algorithms_of(variant):
            step, figures["precision"] = build(
                backbone, variant, device=device, batch_size=batch, image_size=size, color_jitter=True
            )
            alone = figures["step_images_per_s"] = batch / median_s(step, device, repeats=20)
            for backend in ("dali", "device", "memory", "pillow"):
                try:
                    with train_loader(
                        dataset,
                        sampler,
                        Augmentation(size=size),
                        num_steps=2 * steps,
                        device=device,
                        backend=backend,
                    ) as loader:
                        reached = rate(step, OurLoader(loader), device, num_steps=steps)
                    figures[backend] = {"images_per_s": reached, "share_of_step": reached / alone}
                except Exception as error:  # not installed, or it fails on this machine: the others continue
                    figures[backend] = {"error": first_line(error)}
                yield figures
        del step
        plain = PlainLoader(
            dataset, device=device, batch_size=batch, image_size=size, num_workers=resolve_threads(None)
        )
        for variant in ("plain", "plain bf16"):
            with algorithms_of(variant):
                step, _ = build(backbone, variant, device=device, batch_size=batch, image_size=size)
                figures[variant] = {"images_per_s": rate(step, plain, device, num_steps=max(2, steps // 5))}
            yield figures


def part_loss_curve(args: Arguments) -> Iterator[dict[str, Any]]:
    """A few hundred steps of each network in bf16 and fp32 on the same learnable batches: their smoothed losses."""
    import torch

    from fastlt.timing.step import algorithms_of, build
    from fastlt.training.step import StepInput

    device = torch.device(args.device)
    batch, size, steps = (8, 32, 10) if args.quick else (64, 128, 200)
    figures: dict[str, Any] = {}
    for backbone in NETWORKS:
        curves = {}
        for variant in ("fastlt", "fastlt fp32"):
            step, precision = build(backbone, variant, device=device, batch_size=batch, image_size=size)
            generator = torch.Generator(device).manual_seed(0)
            losses = []
            # Eager: compiling eight steps would take more time than all of theirs
            with algorithms_of(variant), torch.compiler.set_stance("force_eager"):
                for _ in range(steps):
                    labels = torch.randint(0, 10, (batch,), device=device, generator=generator)
                    noise = torch.randint(0, 156, (batch, size, size, 3), device=device, generator=generator)
                    images = (noise + 10 * labels[:, None, None, None]).to(torch.uint8)
                    losses.append(step(StepInput(images, labels)))
            curves[precision] = torch.stack(losses).double().unfold(0, min(20, steps), min(20, steps)).mean(1)
        names = list(curves)
        gap = (curves[names[0]] - curves[names[-1]]).abs() / curves[names[-1]]
        figures[backbone] = {name: curve.tolist() for name, curve in curves.items()} | {"largest_gap": gap.max().item()}
        yield figures


def part_evaluation(args: Arguments) -> Iterator[dict[str, Any]]:
    """Evaluation with a smaller last batch: eager, and compiled with that batch filled up; the first pass compiles."""
    import time
    from types import SimpleNamespace

    import torch

    from fastlt import recipe
    from fastlt.data.transforms.preprocess import Preprocess
    from fastlt.models import create_model
    from fastlt.runtime.compiling import Compiler
    from fastlt.runtime.device import algorithms, resolve_precision
    from fastlt.training.step import ValidationPredictor

    device = torch.device(args.device)
    backbone, batch, size, last = ("resnet8", 16, 32, 5) if args.quick else (HEADLINE, BATCH, SIZE, 77)
    config = dataclasses.replace(recipe("imagenet_lt"), precision=resolve_precision("auto", device))
    model = create_model(backbone, 1000).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocess = Preprocess(config.mean, config.std).to(device)
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=device)
    loader: Any = [SimpleNamespace(images=pixels)] * 9 + [SimpleNamespace(images=pixels[:last])]
    figures: dict[str, Any] = {"backbone": backbone, "batch_size": batch, "last_batch_size": last}
    figures["precision"] = config.precision
    for name, wanted in (("eager", False), ("compiled", True)):
        compiler = Compiler(wanted)
        predictor = ValidationPredictor(model, preprocess, config, device, compiler)
        passes = []
        with algorithms():
            for _ in range(3):
                began = time.perf_counter()
                predicted = predictor.predict(loader)
                passes.append(time.perf_counter() - began)
        rate = len(predicted) / min(passes)
        figures[name] = {
            "pass_s": passes,
            "images_per_s": rate,
            "compiles": compiler.works,
            "head": predicted[:8].tolist(),
        }
        figures["num_graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        yield figures


def part_profile(args: Arguments) -> Iterator[dict[str, Any]]:
    """Where a step's time goes: the slowest kernels, and how long moving the bytes that must move would take."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from fastlt.models import create_model
    from fastlt.timing.batches import NUM_CLASSES
    from fastlt.timing.step import algorithms_of, build
    from fastlt.timing.traffic import bandwidth, training_bytes

    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    backbone, batch, size = ("resnet8", 16, 32) if args.quick else (HEADLINE, BATCH, SIZE)
    variant, steps = ("fastlt eager", 2) if args.quick else ("fastlt", 5)
    with algorithms_of(variant):
        step, precision = build(backbone, variant, device=device, batch_size=batch, image_size=size, color_jitter=True)
        for _ in range(5):
            step()
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as trace:
            for _ in range(steps):
                step()
            if on_gpu:
                torch.cuda.synchronize(device)
    rows = [
        (event.key, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / steps / 1000, event.count)
        for event in trace.key_averages()
    ]
    total = sum(ms for _, ms, _ in rows)
    if not total:
        raise RuntimeError("the profiler saw no kernel: it may lack the right to this GPU's counters")
    top = sorted(rows, key=lambda row: -row[1])[:40]
    needed, copied = batch * training_bytes(create_model(backbone, NUM_CLASSES), size, precision), bandwidth(device)
    yield {
        "backbone": backbone,
        "batch_size": batch,
        "precision": precision,
        "ms_a_step": total,
        "gb_a_step": needed / 1e9,
        "copied_gb_per_s": copied / 1e9,
        "share_of_ceiling": 1000 * needed / copied / total,
        "kernels": [{"name": key[:160], "ms": ms, "share": ms / total, "calls": n / steps} for key, ms, n in top],
    }


def part_candidates(args: Arguments) -> Iterator[dict[str, Any]]:
    """How fast the rewritings that are not in the product are, in a network of two blocks a stage."""
    import gc

    import torch

    from fastlt.runtime.log import first_line
    from fastlt.timing.step import algorithms_of, build, clock

    from .candidates import CANDIDATES, INDUCTOR, change_of, inductor_of

    device = torch.device(args.device)
    batch, size = (2, 32) if args.quick else (BATCH, SIZE)
    variant = "fastlt eager" if args.quick else "fastlt"
    figures: dict[str, Any] = {"backbone": f"{HEADLINE}, two blocks a stage", "batch_size": batch}
    for name in (*CANDIDATES, *INDUCTOR):
        try:
            with algorithms_of(variant), inductor_of(name):
                step, _ = build(
                    HEADLINE,
                    variant,
                    device=device,
                    batch_size=batch,
                    image_size=size,
                    color_jitter=True,
                    change=change_of(name),
                )
                seconds, peak = clock(step, device, repeats=2 if args.quick else 4)
            figures[name] = {"images_per_s": batch / seconds, "peak_gib": peak}
        except Exception as error:  # of PyTorch or Triton, say for lack of memory: the others continue
            figures[name] = {"error": first_line(error)}
        finally:
            step = None
            gc.collect()
            torch._dynamo.reset()
        yield figures


PARTS: dict[str, Callable[[Arguments], Iterator[dict[str, Any]]]] = {
    "compile": part_compile,
    "lws": part_lws,
    "end_to_end": part_end_to_end,
    "evaluation": part_evaluation,
    "loss_curve": part_loss_curve,
    "profile": part_profile,
    "candidates": part_candidates,
}
