"""The training step on this machine: the trainer's own with each switch, and what a user would train with instead."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..data.transforms.preprocess import Preprocess
from ..models import create_model
from ..runtime.compiling import Compiler
from ..runtime.device import algorithms, resolve_precision
from ..runtime.distributed import World
from ..runtime.log import first_line
from ..runtime.machine import keep_freed_memory
from ..training.network import build_network, make_optimizer, set_training_mode
from ..training.step import StepInput, loss_function
from .batches import NUM_CLASSES, random_batch
from .peers import PEERS, build_peer
from .traffic import bandwidth, median_s, training_bytes

STEPS_A_ROUND = {"cpu": 1, "cuda": 10}
WARMUP = 3  # rounds before the clock starts

OURS: dict[str, dict[str, Any]] = {
    "fastlt eager": {"compile": False},
    "fastlt": {},
    "fastlt NCHW": {"channels_last": False},
    "fastlt fp32": {"precision": "fp32"},
    "fastlt unfused SGD": {"fused_sgd": False},
    "fastlt no cuDNN benchmark": {"cudnn_benchmark": False},
    "fastlt deterministic": {"deterministic": True},
    "fastlt CUDA graphs": {"cuda_graphs": True},
}
"""Settings of `fastlt train`, one changed in each; network, optimizer and step are the trainer's own."""
CUDA_ONLY = ("fastlt unfused SGD", "fastlt no cuDNN benchmark", "fastlt deterministic", "fastlt CUDA graphs")
"""Variants whose switch does nothing on a CPU."""
VARIANTS = (*(name for name in PEERS if PEERS[name].library is None), *OURS, *(n for n in PEERS if PEERS[n].library))
"""A first script's step, ours, other libraries'. On a CPU plain comes first: the allocator's setting cannot be taken
back."""


def worth_timing(device: torch.device) -> tuple[str, ...]:
    """Return the variants that differ on a device."""
    return tuple(name for name in VARIANTS if device.type == "cuda" or name not in CUDA_ONLY)


def settings(variant: str) -> TrainConfig:
    """Return the settings of a variant of ours."""
    return dataclasses.replace(TrainConfig(lr=0.01), **OURS[variant])


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One network under one variant; `error` says why there are no figures."""

    backbone: str
    variant: str
    images_per_s: float | None = None
    peak_gib: float | None = None
    bandwidth_share: float | None = None
    error: str | None = None


def measure(
    backbones: Sequence[str],
    *,
    variants: Sequence[str],
    device: torch.device,
    batch_size: int,
    image_size: int,
    color_jitter: bool = False,
    repeats: int = 20,
) -> Iterator[StepResult]:
    """Time the training step of every network under every variant.

    Yields:
        Images per second (median round), peak device memory in GiB, and the share of the bandwidth ceiling: the bytes
        that a step must move (`traffic.training_bytes`) over those that the device's memory copies in that time.
    """
    bytes_per_s = bandwidth(device)
    # Variant by variant: on a CPU the allocator's setting of a first script cannot be restored
    for variant in variants:
        for backbone in backbones:
            try:
                step, precision = build(
                    backbone,
                    variant,
                    device=device,
                    batch_size=batch_size,
                    image_size=image_size,
                    color_jitter=color_jitter,
                )
            except ImportError as error:
                yield StepResult(backbone=backbone, variant=variant, error=str(error))
                continue
            try:
                with algorithms_of(variant):
                    seconds, peak = clock(step, device, repeats=repeats)
            except torch.OutOfMemoryError:
                yield StepResult(backbone=backbone, variant=variant, error=f"out of memory at batch {batch_size}")
                continue
            except RuntimeError as error:  # a switch that does not work here does not stop the others
                yield StepResult(backbone=backbone, variant=variant, error=first_line(error))
                continue
            finally:
                del step
                gc.collect()
                torch._dynamo.reset()
            rate = batch_size / seconds
            needed = training_bytes(create_model(backbone, NUM_CLASSES, image_size), image_size, precision)
            yield StepResult(
                backbone=backbone,
                variant=variant,
                images_per_s=rate,
                peak_gib=peak,
                bandwidth_share=rate * needed / bytes_per_s,
            )


def algorithms_of(variant: str) -> contextlib.AbstractContextManager[None]:
    """Select, within a `with` block, the algorithms that a variant's step uses."""
    if variant in PEERS:
        return algorithms(benchmark=PEERS[variant].tuned)
    config = settings(variant)
    return algorithms(benchmark=config.cudnn_benchmark, deterministic=config.deterministic)


def clock(step: Callable[..., Tensor], device: torch.device, *, repeats: int) -> tuple[float, float | None]:
    """Return (median seconds of a step, peak GiB of device memory after the warm-up; None on a CPU)."""
    steps, on_gpu = STEPS_A_ROUND[device.type], device.type == "cuda"

    def several() -> None:
        for _ in range(steps):
            step()

    if on_gpu:
        torch.cuda.empty_cache()
    for _ in range(WARMUP):
        several()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)  # here, since cuDNN and Inductor try memory-hungry algorithms first
    seconds = median_s(several, device, repeats=repeats, warmup=0) / steps
    return seconds, torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else None


def build(
    backbone: str,
    variant: str,
    *,
    device: torch.device,
    batch_size: int,
    image_size: int,
    color_jitter: bool = False,
    change: Callable[[nn.Module], None] | None = None,
) -> tuple[Callable[..., Tensor], str]:
    """Return a training step and the precision it computes in.

    The step takes a batch, by default always the same random one, and returns its mean loss. Our batch is uint8 images
    [B, S, S, 3], labels [B] and, if colours are jittered, factors and orders, as in `Batch`; a peer's is normalised
    float images [B, 3, S, S] and labels.

    Args:
        backbone: Name of the network.
        variant: One of `VARIANTS`.
        device: Where it trains.
        batch_size: B.
        image_size: S.
        color_jitter: Whether ours jitters the colours of the default batch, as for ImageNet-LT.
        change: Alters a network of ours in place, to measure what is not in the product.

    Raises:
        ImportError: The variant needs a library that is not installed, or lacks the network.
    """
    if variant in PEERS:
        return build_peer(backbone, PEERS[variant], device=device, batch_size=batch_size, image_size=image_size)
    if device.type == "cpu":
        keep_freed_memory()
    config = settings(variant)
    precision = resolve_precision(config.precision, device)
    config = dataclasses.replace(config, backbone=backbone, image_size=image_size, precision=precision)
    model = build_network(config, NUM_CLASSES, device, World(), start=False)
    if change is not None:
        change(model)
    set_training_mode(model, config)
    optimizer = make_optimizer(model, config, device)
    compiler = Compiler(
        config.compile,
        channels_last=config.channels_last,
        cuda_graphs=config.cuda_graphs and device.type == "cuda",
    )
    preprocess = Preprocess(config.mean, config.std, channels_last=config.channels_last).to(device)
    loss_and_hits = loss_function(model, preprocess, config, device, compiler)
    default = random_batch(batch_size, image_size, device)
    if not color_jitter:
        default = default._replace(jitter=None, order=None)

    def step(batch: StepInput = default) -> Tensor:
        loss, _ = loss_and_hits(batch)
        if compiler.works is not config.compile:
            raise RuntimeError("torch.compile does not work here: see fastlt doctor")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step, precision
