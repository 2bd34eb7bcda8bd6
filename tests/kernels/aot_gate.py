"""Compile every kernel ahead of time for sm_80, sm_90 and sm_100, without a GPU; fail on a spill or serialised wgmma.

    python tests/kernels/aot_gate.py                          # the installed Triton
    python tests/kernels/aot_gate.py --triton 3.6.0 3.7.1     # each from PyPI, into a temporary folder

Prints a line for each kernel, type and architecture: registers, shared memory, matrix instructions, what is wrong.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = (80, 90, 100)
OPTIONAL = ("scale_ptr", "shift_ptr", "row_ptr", "column_ptr", "class_weight_ptr", "smooth_ptr", "spread_ptr")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One specialisation of a kernel: what its launcher (kernels/launch_*.py) can ask for."""

    kernel: str
    module: str = "linear"
    dtype: str = "bf16"
    absent: tuple[str, ...] = ()
    flags: tuple[tuple[str, object], ...] = ()

    @property
    def name(self) -> str:
        parts = [self.kernel, self.dtype, *(f"{k}={v}" for k, v in self.flags)]
        return " ".join(parts + [f"without {name}" for name in self.absent])

    @property
    def tile(self) -> tuple[int, int, int, int]:
        """Return rows, columns, depth and warps, as the launchers have them."""
        if self.module == "crops":
            return 0, 256 if self.kernel == "square_kernel" else 1024, 0, 8
        if self.module == "batch_norm":
            return 16 if self.kernel in ("apply_kernel", "gradient_kernel") else 32, 64, 0, 4
        return (64, 64, 32, 4) if self.dtype == "fp32" else (128, 128, 64, 8)


def cases() -> list[Case]:
    """Return every kernel in bfloat16 and float32 with all that its launcher can ask for at once, and the plainest."""
    logits, centroids = ("row_ptr", "column_ptr"), ("scale_ptr",)
    out = []
    for dtype in ("bf16", "fp32"):
        names = ("label_kernel", "column_sum_kernel")
        out += [Case(kernel=name, dtype=dtype) for name in names]
        out += [
            Case(kernel="store_kernel", dtype=dtype, absent=a, flags=(("NORMS", False),)) for a in (logits, centroids)
        ]
    out += [Case(kernel="store_kernel", absent=logits + centroids, flags=(("NORMS", True),))]
    out += [Case(kernel=name, module="batch_norm") for name in ("moments_kernel", "merge_kernel")]
    for dtype in ("bf16", "fp32"):
        for relu in (True, False):
            flags = (("RELU", relu),)
            names = ("apply_kernel", "sums_kernel", "gradient_kernel")
            out += [Case(kernel=name, module="batch_norm", dtype=dtype, flags=flags) for name in names]
    out += [
        Case(kernel="apply_kernel", module="batch_norm", absent=("residual_ptr",), flags=(("RELU", True),)),
        Case(kernel="gradient_kernel", module="batch_norm", absent=("dresidual_ptr",), flags=(("RELU", True),)),
    ]
    for cubic in (False, True):
        out.append(Case(kernel="square_kernel", module="crops", dtype="u8", flags=(("CUBIC", cubic),)))
    parts = (("PARTS", 8),)
    out.append(Case(kernel="grey_kernel", module="crops", flags=parts))
    out += [Case(kernel="jitter_kernel", module="crops", dtype=dtype, flags=parts) for dtype in ("bf16", "fp32")]
    return out


def compile_case(case: Case, architecture: int) -> dict[str, object]:
    """Compile one case; read its resources from the cubin and from the assembler's log."""
    import triton
    from fastlt.kernels import batch_norm, crops, intervals, linear
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    modules = {
        "linear": linear,
        "batch_norm": batch_norm,
        "crops": crops,
        "intervals": intervals,
    }
    function = getattr(modules[case.module], case.kernel)
    names = function.arg_names
    rows, columns, depth, warps = case.tile
    constants: dict[str, object] = dict(case.flags) | dict.fromkeys(case.absent)
    constants |= {"BM": rows, "BN": columns, "BC": columns, "BP": columns, "BK": depth, "GROUP": 8, "FAST": True}
    constants |= {"PRECISION": "tf32x3" if case.dtype == "fp32" else "ieee"}
    constants = {name: value for name, value in constants.items() if name in names}
    signature = {name: "constexpr" if name in constants else _type(case, name) for name in names}
    aligned = [n for n in signature if n.endswith("_ptr") or n == "D" or n.endswith("stride")]
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned if name not in constants},
    )
    options = {"num_warps": warps, "num_stages": 3}
    kernel = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    return _resources(kernel, Path(triton.__file__).parent / "backends" / "nvidia" / "bin")


def _type(case: Case, name: str) -> str:
    pixels = ("y_ptr", "residual_ptr", "dx_ptr", "dresidual_ptr") if case.module == "batch_norm" else ()
    if name in ("x_ptr", "w_ptr", "grad_ptr", "dz_ptr", "out_ptr", *pixels):
        return f"*{case.dtype}"
    if case.module == "crops":
        types = dict.fromkeys(("data_ptr", "flip_ptr", "order_ptr", "image_ptr"), "*u8") | {"start_ptr": "*i64"}
        types |= dict.fromkeys(("box_ptr", "factor_ptr", "sum_ptr"), "*fp32")
        return types.get(name, "*i32" if name.endswith("_ptr") else "i32" if name.isupper() else "fp32")
    if name in ("y_ptr", "order_ptr"):
        return "*i64"
    if name in ("num_behind_ptr", "count_ptr"):
        return "*i32"
    return "*fp32" if name.endswith("_ptr") else "fp32" if name in ("tau", "eps") else "i32"


def _resources(kernel, tools: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        cubin, ptx = Path(folder) / "kernel.cubin", Path(folder) / "kernel.ptx"
        cubin.write_bytes(kernel.asm["cubin"])
        ptx.write_text(kernel.asm["ptx"])
        usage = _run(tools / "cuobjdump", "--dump-resource-usage", cubin)
        registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
        sass = _run(tools / "cuobjdump", "--dump-sass", cubin)
        target = re.search(r"^\.target (\w+)", kernel.asm["ptx"], re.MULTILINE).group(1)
        log = ""
        for assembler in ("ptxas", "ptxas-blackwell"):  # the older one does not know the newest PTX version
            if (tools / assembler).exists():
                log = _run(tools / assembler, "-v", f"--gpu-name={target}", ptx, "-o", os.devnull)
                if "spill stores" in log:
                    break
    spills = re.search(r"(\d+) bytes spill stores", log)
    return {
        "registers": registers,
        "stack": stack,
        "shared": kernel.metadata.shared,
        "mma": sorted(set(re.findall(r"\b((?:[A-Z]*H?MMA|HGMMA|UTC[A-Z]*MMA)[A-Z0-9.]*)", sass)))[:2],
        "spilled": int(spills.group(1)) if spills else -1,
        "warnings": sorted(set(re.findall(r"\(C\d+\)[^.\n]{0,80}", log))),
    }


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _check(job: tuple[Case, int]) -> tuple[str, bool]:
    case, architecture = job
    try:
        resources = compile_case(case, architecture)
    except Exception as error:  # a crash of the compiler is what the gate is for
        return f"sm_{architecture} {case.name}: {type(error).__name__}: {str(error)[:200]}", False
    good = resources["spilled"] == 0 and not resources["warnings"]
    return f"sm_{architecture} {case.name}: {resources}", good


def run_gate(jobs: int) -> bool:
    """Compile every case for every architecture; return whether all are clean."""
    import triton

    print(f"triton {triton.__version__}", flush=True)
    clean = True
    with ProcessPoolExecutor(jobs) as pool:
        for line, good in pool.map(_check, [(case, sm) for case in cases() for sm in ARCHITECTURES]):
            print("ok  " if good else "FAIL", line, flush=True)
            clean &= good
    return clean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triton", nargs="*", default=[], help="versions to install from PyPI and test one by one")
    parser.add_argument("--jobs", type=int, default=2, help="compilations at a time")
    args = parser.parse_args()
    if not args.triton:
        return 0 if run_gate(args.jobs) else 1
    failed = []
    for version in args.triton:
        with tempfile.TemporaryDirectory() as folder:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
            subprocess.run([*install, f"triton=={version}"], check=True)
            cache = str(Path(folder) / "cache")
            environment = os.environ | {"PYTHONPATH": folder, "TRITON_CACHE_DIR": cache}
            gate = [sys.executable, __file__, "--jobs", str(args.jobs)]
            if subprocess.run(gate, env=environment, check=False).returncode:
                failed.append(version)
    print(f"failed: {', '.join(failed)}" if failed else "every version is clean")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
