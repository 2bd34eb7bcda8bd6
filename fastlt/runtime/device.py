"""Devices, precisions, and the choice of algorithms."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .log import log


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device.

    Raises:
        ValueError: The name is not a device, or this machine lacks the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise ValueError(f"--device: got {name!r}; expected auto, cpu, cuda or cuda:N; choose one")
    if name != "cpu":
        if int(match[1] or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"--device: got {name!r}; expected one of the {torch.cuda.device_count()} visible CUDA devices; "
                "choose auto"
            )
        warn_without_triton()
    return torch.device(name)


@functools.cache
def warn_without_triton() -> None:
    """Warn once about the cost of a GPU without Triton."""
    if importlib.util.find_spec("triton") is None:
        log.warning(
            "no Triton: fastlt's kernels and the compiled step are replaced by PyTorch's operations, which are slower "
            "and take more memory; pip install triton"
        )


def cpu_multiplies_bf16() -> bool:
    """Return whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX); elsewhere bf16 is far slower."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
        return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
    return False


def resolve_precision(name: str, device: torch.device) -> str:
    """Turn `auto` into bf16 where the hardware multiplies it, else fp32."""
    if name != "auto":
        return name
    ampere = (8, 0)  # the first generation that multiplies bf16; older ones only emulate it
    fast = torch.cuda.get_device_capability(device) >= ampere if device.type == "cuda" else cpu_multiplies_bf16()
    return "bf16" if fast else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision; it does nothing for fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on a device. A copy from memory that is not pinned would wait for the GPU first."""
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


@contextlib.contextmanager
def algorithms(*, benchmark: bool = True, deterministic: bool = False) -> Iterator[None]:
    """Set, inside a block, how operations choose among their algorithms; restore the process's settings after it.

    Args:
        benchmark: Let cuDNN time its convolutions on the first batch of a shape and keep the fastest; the winner may
            differ from run to run.
        deterministic: Take algorithms that give the same bits every time, in PyTorch, cuDNN, cuBLAS and Inductor. It
            overrides `benchmark`. An operation without such an algorithm is named in a warning and still computed.
            The bits should be the same for one kind of GPU, one version and one loader; not checked on a GPU yet.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill_memory = settings.fill_uninitialized_memory
    if deterministic:
        # cuBLAS reads this at its first use in the process: the same bits need buffers of a fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False  # no pass over new tensors: each is written before it is read
    cudnn.benchmark, cudnn.deterministic = benchmark and not deterministic, deterministic
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
        torch.use_deterministic_algorithms(was_deterministic, warn_only=warn_only)
        settings.fill_uninitialized_memory = fill_memory


def multiplying(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a GPU multiplies fp32 in full precision (fp32), or by TF32, 10 bits (tf32, bf16)."""
    return float32_factors(tf32=precision != "fp32") if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def float32_factors(*, tf32: bool) -> Iterator[None]:
    """Take or leave TF32 for all products inside a block, and restore the process's settings after it.

    PyTorch has an older and a newer set of switches, and reading one raises an error where the other contradicts it. So
    both are set, and where the process's own settings contradict each other, the newer are restored, which decide.
    """
    backends: Any = torch.backends
    switches = backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn
    before = [switch.fp32_precision for switch in switches]
    products = convolutions = None
    with contextlib.suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        convolutions = backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    backends.cudnn.allow_tf32 = tf32
    for switch in switches:
        switch.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products or "highest")
        backends.cudnn.allow_tf32 = convolutions is not False
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
