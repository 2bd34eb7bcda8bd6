"""How many bytes a convolutional network's training step must move, and how fast this machine moves them."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Network

BYTES = {"fp32": 4, "bf16": 2}
# Passes over memory of a convolution with its batch norm, ReLU and sum, where those three are one kernel each way.
# Forward: read the input, write the output; statistics read the output; normalising reads it and writes the activation.
# Backward: the reduction reads gradient and output; applying it reads both and writes; the convolution's two gradients
# read the gradient twice and the input once, and write the input's gradient.
PASSES_IN, PASSES_OUT = 3, 11
# A block's shortcut: read in the forward sum, written and read again in the backward sum
PASSES_SHORTCUT = 3
COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


def training_bytes(model: Network, image_size: int, precision: str) -> float:
    """Return the bytes of device memory that one image's training step moves, by the model above.

    Args:
        model: The network; it is left as it is.
        image_size: Side of the square input, pixels.
        precision: fp32 or bf16.
    """
    inputs, outputs, shortcuts = count_elements(model, image_size)
    return float(BYTES[precision] * (PASSES_IN * inputs + PASSES_OUT * outputs + PASSES_SHORTCUT * shortcuts))


def count_elements(model: Network, image_size: int) -> tuple[int, int, int]:
    """Return the elements of one image in all convolutions' inputs, in their outputs, and in the blocks' outputs."""
    inputs = outputs = shortcuts = 0
    shadow = copy.deepcopy(model).to("meta").eval()
    blocks = {block for stage in shadow.stages()[1:] for layer in stage.children() for block in layer.children()}

    def count(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        nonlocal inputs, outputs, shortcuts
        if isinstance(module, nn.Conv2d):
            inputs += arguments[0].numel()
            outputs += output.numel()
        elif module in blocks:
            shortcuts += output.numel()

    for module in shadow.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.empty(1, 3, image_size, image_size, device="meta"))
    return inputs, outputs, shortcuts


def bandwidth(device: torch.device) -> float:
    """Measure the device's memory bandwidth by copying a large random buffer, bytes per second read and written."""
    size = COPIED_BYTES[device.type]
    source = torch.rand(size // 4, device=device)  # a GPU may move zeros faster than data
    target = torch.empty_like(source)

    def copy_once() -> Tensor:
        return target.copy_(source)

    return 2 * size / median_s(copy_once, device, repeats=10)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_s(call: Callable[[], object], device: torch.device, *, repeats: int, warmup: int = 3) -> float:
    """Return the median seconds of a call, the device's work included."""
    times = []
    for repeat in range(warmup + repeats):
        wait_for(device)
        began = time.perf_counter()
        call()
        wait_for(device)
        if repeat >= warmup:
            times.append(time.perf_counter() - began)
    return statistics.median(times)
