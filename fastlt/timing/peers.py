"""What a user would train with instead: a first script's step, and a good one with torchvision's or timm's network."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models import create_model
from ..runtime.compiling import Compiler, compiled
from ..runtime.device import autocast, resolve_precision
from ..runtime.machine import keep_freed_memory
from ..training.step import StepInput
from .batches import NUM_CLASSES, random_batch


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another trainer's step, fed the normalised float images that its loader makes."""

    library: str | None = None
    """torchvision or timm: whose network it trains; None for ours."""
    channels_last: bool = True
    """Images and weights in channels_last memory."""
    bf16: bool = True
    """bf16 autocast, where the hardware multiplies in bf16."""
    compile: bool = True
    """torch.compile over network and loss."""
    forced: bool = False
    """Inductor keeps channels_last memory throughout, as ours does; by itself it may give it up between kernels."""
    tuned: bool = True
    """cuDNN times its convolutions, SGD is one kernel, and on a CPU the C allocator keeps freed blocks."""


PEERS: dict[str, Peer] = {
    "plain": Peer(channels_last=False, bf16=False, compile=False, tuned=False),
    "plain bf16": Peer(channels_last=False, compile=False, tuned=False),
    "channels_last bf16": Peer(compile=False, tuned=False),
    "torchvision compiled": Peer(library="torchvision"),
    "torchvision compiled channels_last": Peer(library="torchvision", forced=True),
    "timm compiled": Peer(library="timm"),
}
"""The first three are a first script and its usual improvements; the others are what a good engineer writes today."""


def build_peer(
    backbone: str, peer: Peer, *, device: torch.device, batch_size: int, image_size: int
) -> tuple[Callable[..., Tensor], str]:
    """Return a peer's training step and its precision; see `step.build`.

    Raises:
        ImportError: The library is not installed, or lacks the network.
    """
    if peer.tuned and device.type == "cpu":
        keep_freed_memory()
    precision = resolve_precision("auto", device) if peer.bf16 else "fp32"
    layout = torch.channels_last if peer.channels_last else torch.contiguous_format
    torch.manual_seed(0)
    model = network_of(peer.library, backbone) if peer.library else create_model(backbone, NUM_CLASSES, image_size)
    model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        fused=(peer.tuned and device.type == "cuda") or None,
    )
    pixels, labels, *_ = random_batch(batch_size, image_size, device)
    default = StepInput((pixels.permute(0, 3, 1, 2) / 127.5 - 1).contiguous(memory_format=layout), labels)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with autocast(device, precision):
            logits = model(images)
        return F.cross_entropy(logits.float(), labels)

    options = Compiler().options if peer.forced else {}
    loss = compiled(loss_of, dynamic=False, options=options) if peer.compile else loss_of

    def step(batch: StepInput = default) -> Tensor:
        mean_loss = loss(batch.images, batch.labels)
        mean_loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return mean_loss.detach()

    return step, precision


def network_of(library: str, name: str) -> nn.Module:
    """Return torchvision's or timm's network of the same name as one of ours.

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
