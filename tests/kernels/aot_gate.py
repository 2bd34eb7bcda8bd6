"""Compile every kernel as its launchers do, for sm_80, sm_90 and sm_100, without a GPU; fail on what goes wrong there.

    python tests/kernels/aot_gate.py                          # the installed Triton
    python tests/kernels/aot_gate.py --triton 3.6.0 3.7.1     # each from PyPI, into a temporary folder
    python tests/kernels/aot_gate.py --only sm_90 rank        # what has all these words in its line; --list: only print

`launches()` of each checks_<module>.py says which launchers to call, on tensors without memory. Triton itself decides
what a launch needs compiled: types, which pointers and sizes 16 divides, constants, options. Each such specialisation
is compiled once. Failures: a kernel that no launch reaches, a grid that CUDA refuses, a spill, more shared memory than
there is, wgmma that runs serially (C7515), single 16-bit loads or stores where every size and pointer allows vectors.
"""

import argparse
import ast
import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import triton
from checking import modules
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

SHARED = {80: 166_912, 90: 232_448, 100: 232_448}
"""Bytes of shared memory that a program may have, by architecture."""
GRID = (2**31 - 1, 65_535, 65_535)
KERNELS = Path(__file__).parents[2] / "kernels"


class Driver(NamedTuple):
    """What Triton asks of a GPU before it compiles for it; nothing can run here."""

    architecture: int

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture  # Triton asks for the target once a device

    def get_current_stream(self, device: int) -> int:
        return 0


class Specialisation(NamedTuple):
    """One compilation: Triton's own record of a launch's types, alignment, constants and options, as JSON."""

    module: str
    kernel: str
    architecture: int
    data: str

    @property
    def arguments(self) -> dict[str, str]:
        """Return each argument's type, `%16` after it where 16 divides it, or its value if it is a constant."""
        record = json.loads(self.data)
        constants, attributes = (
            {path[0]: value for path, value in zip(record[f"{kind}_keys"], record[f"{kind}_vals"], strict=True)}
            for kind in ("constant", "attrs")
        )
        return {
            name: f"={constants[place]}" if kind == "constexpr" else f":{kind}" + "%16" * bool(attributes.get(place))
            for place, (name, kind) in enumerate(record["signature"].items())
        }

    @property
    def is_aligned(self) -> bool:
        """Whether 16 divides every pointer and size."""
        return "=1" not in self.arguments.values() and all(
            value.endswith("%16") for value in self.arguments.values() if value.startswith((":*", ":i"))
        )

    def __str__(self) -> str:
        options = json.loads(self.data)["options"]
        arguments = " ".join(name + value for name, value in self.arguments.items() if value != "=None")
        tail = f"warps={options['num_warps']} stages={options['num_stages']}"
        return f"sm_{self.architecture} {self.module}.{self.kernel} {arguments} {tail}"


@contextlib.contextmanager
def launched(architecture: int) -> Iterator[list[Specialisation]]:
    """Record into a list what launches would compile for an architecture; raise a ValueError on an impossible grid."""
    found: list[Specialisation] = []

    def record(*, fn, compile, **_: object) -> bool:
        found.append(Specialisation(fn.module, fn.name, architecture, compile["specialization_data"]))
        return True  # already done, as far as Triton is concerned

    def run(kernel, *args: object, grid: tuple[int, ...], **options: object) -> None:
        if any(size > limit for size, limit in zip(grid, GRID, strict=False)):
            raise ValueError(f"{kernel.__name__}: CUDA has no grid {grid}")
        plain_run(kernel, *args, grid=grid, **options)

    plain_run = triton.JITFunction.run
    driver.set_active(Driver(architecture))
    with (
        mock.patch.object(knobs.runtime, "jit_cache_hook", record),
        mock.patch.object(triton.JITFunction, "run", run),
        mock.patch("torch.cuda.get_device_capability", return_value=divmod(architecture, 10)),
        mock.patch("torch.autocast"),  # it does not know the device "meta"
        torch.device("meta"),
    ):
        yield found


def specialisations() -> list[Specialisation]:
    """Return what all launches would compile, each once."""
    found = []
    for architecture in SHARED:
        with launched(architecture) as ours:
            for module in modules():
                for launcher, *args in module.launches():
                    launcher(*args)
        found += ours
    return list(dict.fromkeys(found))


def entry_points() -> set[tuple[str, str]]:
    """Return (module, name) of every @triton.jit function that no other one calls."""
    defined, called = set(), set()
    for path in KERNELS.glob("*.py"):
        for function in ast.parse(path.read_text()).body:
            if isinstance(function, ast.FunctionDef) and "triton.jit" in map(ast.unparse, function.decorator_list):
                defined.add((f"fastlt.kernels.{path.stem}", function.name))
                called |= {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
    return {(module, name) for module, name in defined if name not in called}


def compiled(specialisation: Specialisation) -> dict[str, object]:
    """Compile one specialisation; read its resources from the PTX and from the log of the assembler that Triton ran."""
    driver.set_active(Driver(specialisation.architecture))
    function = getattr(importlib.import_module(specialisation.module), specialisation.kernel)
    knobs.compilation.always_compile = knobs.nvidia.dump_ptxas_log = True  # a cached kernel has no log
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        kernel = function.preload(specialisation.data)
    ptx, log = kernel.asm["ptx"], log.getvalue()
    return {
        "registers": int(re.search(r"Used (\d+) registers", log).group(1)),
        "spilled": int(re.search(r"(\d+) bytes spill stores", log).group(1)),
        "shared": kernel.metadata.shared,
        "mma": sorted(set(re.findall(r"\b(?:wgmma|tcgen05|mma)(?=[\w.:]*mma|\.sync)", ptx))),
        "single": len(re.findall(r"\b(?:ld|st)\.global(?:(?!\.v\d)\.[\w:]+)*\.b16\b", ptx)),
        "warnings": sorted(set(re.findall(r"\(C\d+\)[^.\n]{0,80}", log))),
    }


def _check(specialisation: Specialisation) -> tuple[str, bool]:
    try:
        resources = compiled(specialisation)
    except Exception as error:  # a crash of the compiler is what the gate is for
        return f"{specialisation}: {type(error).__name__}: {str(error)[:200]}", False
    good = resources["spilled"] == 0 and not resources["warnings"]
    good &= resources["shared"] <= SHARED[specialisation.architecture]
    good &= not (specialisation.is_aligned and resources["single"])
    return f"{specialisation}: {resources}", good


def run_gate(jobs: int, words: list[str], is_list: bool) -> bool:
    """Compile every specialisation whose line has all the words, or list them; return whether all are clean."""
    print(f"triton {triton.__version__}", flush=True)
    found = specialisations()
    missing = entry_points() - {(one.module, one.kernel) for one in found}
    for module, name in sorted(missing):
        print(f"FAIL {module}.{name}: no launch of tests/kernels/checks_*.py reaches it", flush=True)
    clean = not missing
    found = [one for one in found if all(word in str(one) for word in words)]
    if is_list:
        print(*found, sep="\n")
        return clean
    with ProcessPoolExecutor(jobs) as pool:
        for line, good in pool.map(_check, found):
            print("ok  " if good else "FAIL", line, flush=True)
            clean &= good
    return clean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triton", nargs="*", default=[], help="versions to install from PyPI and test one by one")
    parser.add_argument("--jobs", type=int, default=2, help="compilations at a time")
    parser.add_argument("--only", nargs="*", default=[], help="words of the lines to compile")
    parser.add_argument("--list", action="store_true", help="print what would be compiled")
    args = parser.parse_args()
    if not args.triton:
        return 0 if run_gate(args.jobs, args.only, args.list) else 1
    failed = []
    for version in args.triton:
        with tempfile.TemporaryDirectory() as folder:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
            subprocess.run([*install, f"triton=={version}"], check=True)
            cache = str(Path(folder) / "cache")
            environment = os.environ | {"PYTHONPATH": folder, "TRITON_CACHE_DIR": cache}
            gate = [sys.executable, __file__, "--jobs", str(args.jobs), "--only", *args.only]
            if subprocess.run(gate, env=environment, check=False).returncode:
                failed.append(version)
    print(f"failed: {', '.join(failed)}" if failed else "every version is clean")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
