"""The training step on this machine: each network with each switch, against what a first script would do."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.preprocess import Preprocess
from ..hardware import algorithms, autocast, keep_freed_memory, resolve_precision
from ..models import create_model
from .traffic import bandwidth, median_s, training_bytes

NUM_CLASSES = 1000
STEPS_A_ROUND = {"cpu": 1, "cuda": 10}


@dataclass(frozen=True, kw_only=True)
class Switches:
    """What a step is built with."""

    channels_last: bool = True
    """Images and weights in channels_last memory."""
    low_precision: bool = True
    """bf16 autocast, where the hardware multiplies it."""
    compile: bool = True
    """torch.compile over jitter, normalisation, network and loss."""
    fused_optimizer: bool = True
    """SGD in one kernel (CUDA)."""
    cudnn_benchmark: bool = True
    """Let cuDNN time its convolutions first and keep the fastest (CUDA)."""
    deterministic: bool = False
    """Algorithms that give the same bits every time: ``--deterministic``."""
    cuda_graphs: bool = False
    """Replay the compiled step as CUDA graphs (CUDA)."""
    keep_memory: bool = True
    """Let the C allocator keep freed blocks (CPU)."""


PLAIN = Switches(
    channels_last=False,
    low_precision=False,
    compile=False,
    fused_optimizer=False,
    cudnn_benchmark=False,
    keep_memory=False,
)
VARIANTS: dict[str, Switches] = {
    "plain": PLAIN,
    "plain bf16": dataclasses.replace(PLAIN, low_precision=True),
    "channels_last bf16": dataclasses.replace(PLAIN, low_precision=True, channels_last=True),
    "fastlt eager": Switches(compile=False),
    "fastlt": Switches(),
    "fastlt NCHW": Switches(channels_last=False),
    "fastlt fp32": Switches(low_precision=False),
    "fastlt unfused SGD": Switches(fused_optimizer=False),
    "fastlt no cuDNN benchmark": Switches(cudnn_benchmark=False),
    "fastlt deterministic": Switches(deterministic=True),
    "fastlt CUDA graphs": Switches(cuda_graphs=True),
}
"""From a first script's step, through ours, to ours with one switch turned. On a CPU plain comes first: the allocator's
setting cannot be taken back."""
CUDA_ONLY = ("fastlt unfused SGD", "fastlt no cuDNN benchmark", "fastlt deterministic", "fastlt CUDA graphs")
"""Variants whose switch does nothing on a CPU."""
PEERS = {"torchvision compiled": "torchvision", "timm compiled": "timm"}
"""A library's network with channels_last, bf16 and torch.compile, fed float images: a good engineer's step."""


def worth_timing(device: torch.device) -> tuple[str, ...]:
    """Return the variants that differ on a device, the peers included."""
    return tuple(name for name in (*VARIANTS, *PEERS) if device.type == "cuda" or name not in CUDA_ONLY)


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One network under one variant; ``error`` says why there are no figures."""

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
    repeats: int = 20,
) -> Iterator[StepResult]:
    """Time the training step of every network under every variant.

    Yields:
        Images per second (median round), peak device memory, and the share of the bandwidth ceiling that it comes to:
        bytes a step must move (``traffic.training_bytes``) over what the device's memory copies in that time.
    """
    bytes_per_s = bandwidth(device)
    for backbone in backbones:
        for variant in variants:
            try:
                step, precision = build(backbone, variant, device=device, batch_size=batch_size, image_size=image_size)
            except ImportError as error:
                yield StepResult(backbone=backbone, variant=variant, error=str(error))
                continue
            try:
                with chosen(variant):
                    seconds, peak = clock(step, device, repeats=repeats)
            except torch.OutOfMemoryError:
                yield StepResult(backbone=backbone, variant=variant, error=f"out of memory at batch {batch_size}")
                continue
            except RuntimeError as error:  # a switch that does not work here does not stop the others
                yield StepResult(backbone=backbone, variant=variant, error=str(error).strip().partition("\n")[0])
                continue
            finally:
                del step
                gc.collect()
                torch._dynamo.reset()
            rate = batch_size / seconds
            needed = training_bytes(create_model(backbone, NUM_CLASSES), image_size, precision)
            yield StepResult(
                backbone=backbone,
                variant=variant,
                images_per_s=rate,
                peak_gib=peak,
                bandwidth_share=rate * needed / bytes_per_s,
            )


def chosen(variant: str) -> contextlib.AbstractContextManager[None]:
    """Settle, for a block, the algorithms that a variant's step is to run with."""
    switches = VARIANTS.get(variant, Switches())
    return algorithms(benchmark=switches.cudnn_benchmark, deterministic=switches.deterministic)


def clock(step: Callable[..., Tensor], device: torch.device, *, repeats: int) -> tuple[float, float | None]:
    """Return (median seconds of a step, peak GiB of device memory; None on a CPU)."""
    steps = STEPS_A_ROUND[device.type]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)

    def several() -> None:
        for _ in range(steps):
            step()

    seconds = median_s(several, device, repeats=repeats) / steps
    return seconds, torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def build(
    backbone: str,
    variant: str,
    *,
    device: torch.device,
    batch_size: int,
    image_size: int,
    change: Callable[[nn.Module], None] | None = None,
) -> tuple[Callable[..., Tensor], str]:
    """Return a training step and the precision it computes in.

    The step takes a batch (uint8 images [B, S, S, 3], labels [B]; by default always the same random one) and returns
    its mean loss. For ``plain`` and the peers images are floats, as their loaders give them. ``change`` alters the
    network before it is compiled: what is to be measured without being in the product.

    Raises:
        ImportError: The variant needs a library that is not installed, or lacks the network.
    """
    peer = PEERS.get(variant)
    switches = Switches() if peer else VARIANTS[variant]
    if switches.keep_memory and device.type == "cpu":
        keep_freed_memory()
    precision = resolve_precision("auto", device) if switches.low_precision else "fp32"
    layout = torch.channels_last if switches.channels_last else torch.contiguous_format
    torch.manual_seed(0)
    model: nn.Module = peer_model(peer, backbone) if peer else create_model(backbone, NUM_CLASSES)
    if change is not None:
        change(model)
    model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        fused=(switches.fused_optimizer and device.type == "cuda") or None,
    )
    preprocess = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).to(device)
    images = torch.randint(0, 256, (batch_size, image_size, image_size, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    # A first script and the peers get floats from their loader; ours normalises in the step
    given = preprocess(images).contiguous(memory_format=layout) if peer or switches == PLAIN else images

    def loss_of(batch: Tensor, labels: Tensor) -> Tensor:
        with autocast(device, precision):
            x = preprocess(batch).contiguous(memory_format=layout) if batch.dtype == torch.uint8 else batch
            logits = model(x)
        return F.cross_entropy(logits.float(), labels)

    mode = "reduce-overhead" if switches.cuda_graphs else None
    loss = torch.compile(loss_of, dynamic=False, mode=mode) if switches.compile else loss_of

    def step(batch: Tensor = given, labels: Tensor = labels) -> Tensor:
        mean_loss = loss(batch, labels)
        mean_loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # A CUDA graph writes its next result where this one is
        return mean_loss.detach().clone() if switches.cuda_graphs else mean_loss.detach()

    return step, precision


def peer_model(library: str, name: str) -> nn.Module:
    """Return another library's network of a name that it shares with ours.

    Args:
        library: torchvision or timm.
        name: Of the network.

    Raises:
        ImportError: The library is not installed, or has no such network.
    """
    if importlib.util.find_spec(library) is None:
        raise ImportError(f"{library} is not installed")
    try:
        networks = importlib.import_module("timm" if library == "timm" else "torchvision.models")
    except RuntimeError as error:  # torchvision was built for another version of PyTorch
        raise ImportError(f"{library} cannot be imported: {error}") from error
    if library == "timm":
        make = functools.partial(networks.create_model, name) if networks.is_model(name) else None
    else:
        make = getattr(networks, name, None)
    if make is None:
        raise ImportError(f"{library} has no {name}")
    model: nn.Module = make(num_classes=NUM_CLASSES)
    return model
