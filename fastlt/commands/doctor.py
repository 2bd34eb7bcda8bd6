"""`fastlt doctor`."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Column, Table
from rich.text import Text

from ..runtime.log import first_line
from ..runtime.machine import resolve_threads
from .common import Output, console, parse, write_output

if TYPE_CHECKING:
    from torch import Tensor

SLOWER = "training works, with slower steps (--no-compile hides the warning); install or repair g++"
MAX_DIFFERENCE = 4.0  # levels of 255, mean over pixels: far above the difference between two JPEG decoders


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor(Output):
    """Check what is installed and works, and give advice on the rest."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt doctor`; the exit status is 1 when something is broken."""
    parsed = parse(Doctor, argv, "doctor")
    findings = examine()
    table = Table(*(Column(head, overflow="fold") for head in ("what", "state", "found", "what to do")))
    style = {"ok": "green", "absent": "yellow", "broken": "red"}
    for finding in findings:
        table.add_row(finding.name, Text(finding.state, style[finding.state]), finding.detail, finding.advice)
    console.print(table)
    write_output(parsed.json, [dataclasses.asdict(finding) for finding in findings])
    if any(finding.state == "broken" for finding in findings):
        raise SystemExit(1)


@dataclass(frozen=True)
class Finding:
    """A line of the doctor's table.

    Attributes:
        name: The library or device.
        state: `ok`, `absent` (optional) or `broken`.
        detail: The version, or what is wrong.
        advice: What to do; empty where nothing is needed.
    """

    name: str
    state: str
    detail: str
    advice: str = ""


def check_python() -> Finding:
    """Report the interpreter."""
    return Finding("Python", "ok", sys.version.split()[0])


def check_core() -> Finding:
    """Report whether the C++ core can be imported."""
    try:
        importlib.import_module("fastlt._C")
    except ImportError as error:
        return Finding(
            "C++ core", "broken", str(error), "install a C++17 compiler, then: pip install --force-reinstall fastlt"
        )
    return Finding("C++ core", "ok", "fastlt._C")


def check_torch() -> Finding:
    """Report PyTorch and its threads."""
    import torch

    return Finding("PyTorch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def check_gpu() -> Finding:
    """Report the CUDA devices."""
    import torch

    if not torch.cuda.is_available():
        reason = f"CUDA {torch.version.cuda} build, no device" if torch.version.cuda else "CPU build of PyTorch"
        return Finding(
            "GPU", "absent", reason, "everything works on the CPU; for a GPU install its driver and a CUDA build"
        )
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", ", ".join(names))


def check_bf16() -> Finding:
    """Report whether the processor multiplies bf16."""
    from ..runtime.device import cpu_multiplies_bf16

    if cpu_multiplies_bf16():
        return Finding("bf16 on the CPU", "ok", "in hardware: --precision auto uses it")
    return Finding("bf16 on the CPU", "absent", "not in hardware: --precision auto uses fp32")


def check_compiler() -> Finding:
    """Compile and run a function with torch.compile."""
    import torch

    from ..runtime.compiling import compiled
    from ..runtime.device import resolve_device

    compiler = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        return Finding("torch.compile", "absent", "no C++ compiler found", SLOWER)
    try:
        compiled(lambda x: torch.sin(x) + 1)(torch.zeros(3, device=resolve_device("auto")))
    except Exception as error:  # any error of the compiler stack is reported
        reason = first_line(error)[:100]
        return Finding("torch.compile", "broken", reason, SLOWER)
    return Finding("torch.compile", "ok", f"with {compiler}")


def check_triton() -> Finding:
    """Report Triton."""
    try:
        version = importlib.metadata.version("triton")
        importlib.import_module("fastlt.kernels")
    except ImportError:
        return Finding(
            "Triton",
            "absent",
            "not installed",
            "a CPU needs none; on a GPU PyTorch's operations run instead, which are slower and take more memory, and "
            "nothing is compiled: pip install triton",
        )
    return Finding("Triton", "ok", f"{version}; its kernels run on a GPU")


def check_dali() -> Finding:
    """Load one image with DALI and with Pillow."""
    try:
        version = importlib.metadata.version("nvidia-dali-cuda130")
    except ImportError:
        advice = (
            "Pillow decodes on the CPU instead, which may be too slow for a GPU; on Linux x86-64: pip install "
            "nvidia-dali-cuda130"
        )
        return Finding("DALI", "absent", "not installed", advice)
    try:
        dali_image, pillow_image = load_test_image("dali"), load_test_image("pillow")
    except Exception as error:  # any error of DALI is reported
        reason = first_line(error.__cause__ or error)[:100]
        return Finding("DALI", "broken", f"{version}: {reason}", "train with --loader pillow")
    difference = (dali_image.float() - pillow_image.float()).abs().mean().item()
    if difference > MAX_DIFFERENCE:
        detail = f"{version}: pixels differ from Pillow's by {difference:.0f} levels on average"
        return Finding("DALI", "broken", detail, "train with --loader pillow")
    return Finding("DALI", "ok", f"{version}, loads the same images as Pillow")


def load_test_image(backend: str) -> Tensor:
    """Write a JPEG of a grey ramp, and load it as training does: uint8 [1, 64, 64, 3]."""
    from PIL import Image

    from ..data.dataset import LongTailedDataset
    from ..data.loaders.loader import LoaderSettings, eval_loader
    from ..data.transforms.augmentation import EvalTransform
    from ..runtime.device import resolve_device

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ramp").mkdir()
        Image.linear_gradient("L").save(Path(folder) / "ramp" / "ramp.jpg", quality=95)
        dataset = LongTailedDataset.from_folder(Path(folder), cache=False)
        transform = EvalTransform(size=64, resize=64)
        settings: LoaderSettings = {"device": resolve_device("auto"), "backend": backend, "num_threads": 1}
        with eval_loader(dataset, transform, batch_size=1, **settings) as loader:
            return next(iter(loader)).images.cpu()


def check_extra(name: str, module: str, purpose: str) -> Finding:
    """Report an optional library."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return Finding(name, "absent", f"{purpose} ({error})", f"pip install 'fastlt[{name.lower()}]'")
    return Finding(name, "ok", f"{importlib.metadata.version(module)}: {purpose}")


def check_threads() -> Finding:
    """Report the loader's default threads."""
    return Finding("loader threads", "ok", str(resolve_threads(None)))


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_core,
    check_torch,
    check_gpu,
    check_bf16,
    check_compiler,
    check_triton,
    check_dali,
    check_threads,
    lambda: check_extra("TensorBoard", "tensorboard", "training curves"),
    lambda: check_extra("timm", "timm", "more backbones: --backbone timm:NAME"),
    lambda: check_extra("HEIC", "pillow_heif", "photographs of iPhones"),
)


def examine() -> list[Finding]:
    """Return the findings of all checks, in the order of the table."""
    return [check() for check in CHECKS]
