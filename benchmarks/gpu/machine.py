"""What a bare machine lacks, made here without pip and network, and what its GPU says of itself while it works."""

from __future__ import annotations

import ctypes
import importlib.util
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden")  # setup.py's, and pybind11's own
BUILD_S = 180  # that g++ may take for a file
SAMPLE_S, KEPT_S = 0.25, 600
SM_CLOCK, MEMORY_CLOCK, TEMPERATURE = 1, 2, 0  # NVML's numbers for what is asked


def prepare(root: Path = ROOT) -> None:
    """Build `fastlt._C` and link `fastlt.kernels` in the folder of the source, where they are not there yet.

    Raises:
        RuntimeError: The compiler fails.
    """
    core = root / "fastlt" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not core.is_file():
        build(sorted((root / "csrc").glob("*.cpp")), core)
    link = root / "fastlt" / "kernels"
    if not link.exists() and importlib.util.find_spec("fastlt.kernels") is None:
        link.symlink_to("../kernels")


def build(sources: list[Path], target: Path) -> None:
    """Compile C++ files side by side, and link them to a Python extension.

    Raises:
        RuntimeError: The compiler fails.
    """
    folders = [sysconfig.get_path("include"), *pybind11_folders()]
    includes = [f"-I{folder}" for folder in folders]
    objects = [target.with_name(f"{source.stem}.o") for source in sources]

    def compiled(source: Path, result: Path) -> None:
        run("g++", *FLAGS, *includes, "-c", str(source), "-o", str(result))

    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(compiled, sources, objects))
        partial = target.with_suffix(".partial")
        run("g++", "-shared", *map(str, objects), "-o", str(partial))
        partial.replace(target)
    finally:
        for each in objects:
            each.unlink(missing_ok=True)


def pybind11_folders() -> list[str]:
    """Return where pybind11's headers are: its own package, or PyTorch's copy of them."""
    for package, folder in (("pybind11", "include"), ("torch", "include")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            return [str(Path(spec.origin).parent / folder)]
    return []


def run(*command: str) -> None:
    """Run a command, or raise a RuntimeError with the end of what it printed, or a TimeoutExpired."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:1] + command[-3:])}: {done.stderr[-2000:]}")


def forget_block_sizes(cache: Path) -> None:
    """Delete the block sizes that Inductor has chosen for its kernels, which it timed while other processes ran."""
    for choice in cache.rglob("*.best_config"):
        choice.unlink(missing_ok=True)


def unpack(wheels: Path, site: Path) -> None:
    """Unpack the wheels of a folder into another one, which imports find behind everything that is installed.

    One that cannot be unpacked is left out: most rows need none.
    """
    for wheel in sorted(wheels.glob("*.whl")):
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            print(f"{wheel.name}: {error}", flush=True)
    if site.is_dir() and str(site) not in sys.path:
        sys.path.append(str(site))


class Sensors:
    """Clocks, power and temperature of a GPU, read several times a second while the block lasts; none without NVML.

    Read in a process of its own, which costs what is being timed nothing.

    Args:
        library: NVML.
        index: The GPU's number there.
    """

    def __init__(self, library: Any, index: int = 0) -> None:
        self.library, self.index, self.handle = library, index, ctypes.c_void_p()
        self.samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=int(KEPT_S / SAMPLE_S))
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Sensors:
        library, handle = self.library, ctypes.byref(self.handle)
        if library is not None and library.nvmlInit_v2() == 0:
            found = library.nvmlDeviceGetHandleByIndex_v2(self.index, handle) == 0
            if found:
                self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if self.thread.ident is not None:
            self.thread.join()

    def watch(self) -> None:
        """Take samples until the block ends."""
        while not self.over.wait(SAMPLE_S):
            self.samples.append((time.monotonic(), self.read()))

    def read(self) -> dict[str, float]:
        """Return the sensors' values now; those that the GPU does not tell are left out."""
        library, found = self.library, {}
        questions = {
            "sm_mhz": (library.nvmlDeviceGetClockInfo, (SM_CLOCK,), 1),
            "memory_mhz": (library.nvmlDeviceGetClockInfo, (MEMORY_CLOCK,), 1),
            "power_w": (library.nvmlDeviceGetPowerUsage, (), 1000),
            "temperature_c": (library.nvmlDeviceGetTemperature, (TEMPERATURE,), 1),
        }
        for name, (ask, arguments, unit) in questions.items():
            value = ctypes.c_uint()
            if not ask(self.handle, *arguments, ctypes.byref(value)):
                found[name] = value.value / unit
        return found

    def now(self) -> dict[str, float]:
        """Return the values at this moment; empty without NVML."""
        return self.read() if self.thread.is_alive() else {}

    def since(self, began: float) -> dict[str, float]:
        """Return the means since a time of `time.monotonic`, and the lowest clock; empty without a sample."""
        samples = [values for when, values in list(self.samples) if when >= began]
        found = {}
        for name in samples[0] if samples else ():
            values = [sample[name] for sample in samples if name in sample]
            found[name] = round(statistics.fmean(values), 1)
            if name == "sm_mhz":
                found["least_sm_mhz"] = min(values)
        return found


def nvml() -> Any:
    """Return NVIDIA's management library, None where there is none."""
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
