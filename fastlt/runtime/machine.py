"""The machine: processors, memory, control groups, and the facts to state with a timing.

PyTorch is imported inside the functions that need it, so that processes that only paint or decode images start fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MAX_THREADS = 16
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's mallopt parameters


def available_bytes() -> int:
    """Return the bytes of memory that this process may still take, within the limits of its control groups too."""
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2]
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")] or free
    for folder, limit_name, usage_name, cache_name in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # no such group, or no limit ("max")
            limit, used = (int((folder / name).read_text()) for name in (limit_name, usage_name))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            free.append(max(0, limit - used + int(stat.get(cache_name, 0))))
    return min(free)


def free_bytes(device: torch.device) -> int:
    """Return the bytes of a device's memory that this process may still take."""
    import torch

    if device.type != "cuda":
        return available_bytes()
    # PyTorch reuses the memory that it has reserved, which is most of the memory after a training
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reusable


def shared_memory_bytes() -> int | None:
    """Return the bytes free in /dev/shm, through which a DataLoader's workers hand over batches; None without it."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def _control_groups() -> Iterator[tuple[Path, str, str, str]]:
    """Yield (folder, limit file, usage file, memory.stat's entry for reclaimable cache) for this process's groups."""
    with contextlib.suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, names = GROUPS, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                root = GROUPS / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            folder = root / path.lstrip("/")
            for group in (folder, *folder.parents):
                if group.is_relative_to(root):
                    yield group, *names


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the facts to state with a timing: the device, its driver and clocks, versions, and the code's commit."""
    import torch

    facts: dict[str, Any] = {"device": processors(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    if device.type == "cuda":
        # The older switches raise an error where the process has set the newer ones otherwise
        backends: Any = torch.backends
        parts = {"cudnn": backends.cudnn.conv, "matmul": backends.cuda.matmul}
        tf32 = {name: part.fp32_precision == "tf32" for name, part in parts.items()}
        facts |= {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "tf32": tf32}
        facts |= gpu_state(device)
    return facts | {"python": platform.python_version(), "commit": commit_of(Path(__file__).parents[2])}


def commit_of(root: Path) -> str | None:
    """Return the commit of a folder of source code: the first line of its .commit, else what Git says; None if neither.

    A copy of the code without its history says by the file `git describe --always --dirty > .commit` where it is from.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if commit := (root / ".commit").read_text(encoding="ascii").split("\n", 1)[0].strip():
            return commit
    if (root / ".git").exists():
        return run_command("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12")
    return None


def gpu_state(device: torch.device) -> dict[str, str]:
    """Return driver, clocks and power limit of a GPU as nvidia-smi prints them; empty without nvidia-smi."""
    import torch

    fields = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    query = (f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id=GPU-{uuid}")
    values = (run_command("nvidia-smi", *query) or "").split(", ")
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def run_command(*command: str) -> str | None:
    """Return the output of a command, or None if it is absent, fails or prints nothing."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def memory_in_use(device: torch.device) -> str:
    """Return, as text, the peak use of a device's memory by this process, and the use by others."""
    import torch

    gib = 2**30
    if device.type != "cuda":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return f"peak {peak / gib:.1f} of {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / gib:.1f} GiB"
    free, total = torch.cuda.mem_get_info(device)
    others_bytes = total - free - torch.cuda.memory_reserved(device)
    taken = f", {others_bytes / gib:.1f} GiB by others" if others_bytes > gib else ""  # below that it is CUDA's own
    return f"peak {torch.cuda.max_memory_allocated(device) / gib:.1f} of {total / gib:.1f} GiB{taken}"


def processors() -> str:
    """Return the number and the model of the usable processors."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        model = Path("/proc/cpuinfo").read_text().split("model name", 1)[1]
        name = model.split(":", 1)[1].splitlines()[0].strip()
    return f"{resolve_threads(None)} cores of {name}"


def resolve_threads(num_threads: int | None) -> int:
    """Return `num_threads`, or by default one thread for each usable processor, at most 16.

    A processor is usable if this process may run on it; a container's quota of processor time limits their number.
    """
    if num_threads:
        return num_threads
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(MAX_THREADS, usable, processor_quota() or usable)


def processor_quota() -> int | None:
    """Return the container's quota in processors, rounded up; None without a quota or off Linux."""
    with contextlib.suppress(OSError, ValueError):
        if (GROUPS / "cpu.max").exists():
            quota, period = (GROUPS / "cpu.max").read_text().split()
        else:
            quota, period = ((GROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:  # "max" and -1 mean no quota
            return math.ceil(int(quota) / int(period))
    return None


def has_dali() -> bool:
    """Return whether DALI is installed."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks, since every training step allocates and frees the same large buffers.

    Otherwise each buffer is unmapped and its pages are faulted in again, a good part of a small network's step.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
