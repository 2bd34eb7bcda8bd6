"""What this machine can do: devices, precisions and the allocator settings that training on a CPU wants."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .loggers import log

MAX_THREADS = 16
CGROUP = Path("/sys/fs/cgroup")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's mallopt parameters


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device.

    Raises:
        ValueError: The name is no device, or this machine lacks it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device: got {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device: got {name!r}; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device: got {name!r}, but {torch.cuda.device_count()} CUDA devices are visible; try auto")
    if device.type == "cuda":
        miss_triton()
    return device


@functools.cache
def miss_triton() -> None:
    """Say once what a GPU without Triton costs."""
    if importlib.util.find_spec("triton") is None:
        log.warning(
            "no Triton: PyTorch's own operations stand in for fastlt's kernels and the compiled step, slower and with "
            "more memory; pip install triton"
        )


def cpu_multiplies_bf16() -> bool:
    """Say whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX); elsewhere bf16 is far slower."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
        return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
    return False


def resolve_precision(name: str, device: torch.device) -> str:
    """Turn ``auto`` into bf16 where the hardware multiplies it, else fp32."""
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


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a timing must be quoted with: the device, its driver and clocks, versions, and the code's commit."""
    found: dict[str, Any] = {"device": processors(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    if device.type == "cuda":
        tf32 = {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32}
        found |= {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "tf32": tf32}
        found |= gpu_state(device)
    root, commit = Path(__file__).parents[1], None
    if (root / ".git").exists():
        commit = answer("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12")
    return found | {"python": platform.python_version(), "commit": commit}


def gpu_state(device: torch.device) -> dict[str, str]:
    """Return driver, clocks and power limit of a GPU as nvidia-smi has them; nothing where it is absent."""
    fields = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    query = (f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id=GPU-{uuid}")
    values = (answer("nvidia-smi", *query) or "").split(", ")
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def answer(*command: str) -> str | None:
    """Return what a command prints, None where it is absent or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def memory_in_use(device: torch.device) -> str:
    """Say how much of a device's memory this process took at most, and what others have of it."""
    gib = 2**30
    if device.type != "cuda":
        import resource  # Windows has none

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return f"peak {peak / gib:.1f} of {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / gib:.1f} GiB"
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    taken = f", {others / gib:.1f} GiB by others" if others > gib else ""  # below that it is CUDA's own
    return f"peak {torch.cuda.max_memory_allocated(device) / gib:.1f} of {total / gib:.1f} GiB{taken}"


def processors() -> str:
    """Return the usable processors' number and model."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        model = Path("/proc/cpuinfo").read_text().split("model name", 1)[1]
        name = model.split(":", 1)[1].splitlines()[0].strip()
    return f"{resolve_threads(None)} cores of {name}"


def resolve_threads(num_threads: int | None) -> int:
    """Return the number of loader threads: as asked for, or one a usable processor, at most 16.

    Usable is what this process may run on, and no more than its container's share of the processors' time.
    """
    if num_threads:
        return num_threads
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(MAX_THREADS, usable, processor_quota() or usable)


def processor_quota() -> int | None:
    """Return how many processors' time the container may take, rounded up; None without a limit or off Linux."""
    with contextlib.suppress(OSError, ValueError):
        if (CGROUP / "cpu.max").exists():
            quota, period = (CGROUP / "cpu.max").read_text().split()
        else:
            quota, period = ((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:  # "max", or -1, is none
            return math.ceil(int(quota) / int(period))
    return None


@contextlib.contextmanager
def algorithms(*, benchmark: bool = True, deterministic: bool = False) -> Iterator[None]:
    """Settle for a block how operations choose among their algorithms, and put the process's own settings back.

    Args:
        benchmark: Let cuDNN time its convolutions on the first batch of a shape and keep the fastest; what wins may
            differ from run to run.
        deterministic: Take algorithms that give the same bits every time, in PyTorch, cuDNN, cuBLAS and Inductor. It
            overrides ``benchmark``. An operation that has none is named in a warning and computed all the same.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    if deterministic:
        # Read when cuBLAS first works in this process: the same bits need buffers of a fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False  # a pass over every new tensor; no step reads what it did not write
    cudnn.benchmark, cudnn.deterministic = benchmark and not deterministic, deterministic
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
        torch.use_deterministic_algorithms(was_deterministic, warn_only=only_warned)
        settings.fill_uninitialized_memory = filled


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks: a training step frees and asks for the same large buffers again and again.

    Without this each one is unmapped and its pages are faulted in anew, a good part of a small network's step.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
