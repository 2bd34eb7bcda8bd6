"""Everything that needs a GPU, in one command of at most nine minutes: correctness first, then the figures.

    python -m benchmarks.gpu --out DIR                    # on a GPU; again for the parts that had no time left
    python -m benchmarks.gpu --out DIR --only candidates  # some parts, whether they have figures or not
    python -m benchmarks.gpu --out DIR --device cpu --quick   # the same parts, small, to see that they run

Each part is a process of its own with a time limit, and writes its JSON into --out as its figures come, so that figures
survive a later failure; summary.md shows them as tables. Compiling would take most of the time, so all steps are
compiled first, several at once, while the kernels are checked. A wrong kernel stops everything: only correct code is
timed. Then the parts are timed one by one, the most important first; the same command continues with the parts that
have not succeeded in DIR. Works with torch 2.11 and triton 3.6, and with torch 2.13 and triton 3.7. Without DALI its
loader and the tuning are left out; with torchvision its networks are timed in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastlt.runtime.machine import has_dali

from .parts import BATCH, MATRIX, NETWORKS, PARTS, SIZE, Arguments
from .summary import page

ROOT = Path(__file__).resolve().parents[2]
SUCCEEDED = "succeeded.txt"
WRITING = threading.Lock()
RUNNING: set[subprocess.Popen[bytes]] = set()
CACHE = Path(tempfile.gettempdir()) / "fastlt-benchmarks"  # what is compiled ahead
LIMIT_S, LEAST_S = 530, 20  # of a run; and the least time left in which a part is started
CHECKS = ("loss_curve", "compile")  # run at once, beside the kernels' checks: nothing is timed in them


def run(name: str, args: Arguments, *command: str, limit_s: float) -> int:
    """Run a Python command of the repository, its output to NAME.txt; return its status, 124 when the time is up."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(CACHE)
    if args.device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    began = time.monotonic()
    with (
        (args.out / f"{name}.txt").open("w") as log,
        # A group of its own, so that a part's workers can be ended with it
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=log, stderr=log, process_group=0
        ) as process,
    ):
        RUNNING.add(process)
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            end(process)
            RUNNING.remove(process)
    print(f"{name}: {'ok' if status == 0 else f'status {status}'}, {time.monotonic() - began:.0f} s", flush=True)
    return status


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part's process and its workers; usually none is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def benchmark(what: str, args: Arguments, name: str, *flags: str) -> list[str]:
    """Return the command of `fastlt benchmark`, whose figures go into NAME.json."""
    where = ["--device", args.device, "--json", str(args.out / f"{name}.json")]
    return ["-m", "fastlt", "benchmark", what, *where, *flags]


def run_part(name: str, args: Arguments) -> None:
    """Run one part in this process, and write its JSON after each new figure."""
    import torch

    from fastlt.files import replacing
    from fastlt.runtime.machine import describe_machine

    machine = {"machine": describe_machine(torch.device(args.device))}
    for figures in PARTS[name](args):
        with replacing(args.out / f"{name}.json") as partial:  # complete even if the time ends while it is written
            partial.write_text(json.dumps(machine | figures, indent=1) + "\n")


def jobs(args: Arguments) -> list[tuple[str, list[str], float]]:
    """Return (name, Python command, seconds it may take) of all parts, the most important first."""
    common = ["--out", str(args.out), "--device", args.device, *(["--quick"] if args.quick else [])]
    parts = {name: ["-m", "benchmarks.gpu", *common, "--part", name] for name in PARTS}
    ops = ["benchmarks/bench_ops.py", "--device", args.device, "--quick", "--out", str(args.out / "ops.json")]
    if args.quick:
        small = ("--batch-size", "8")
        once = (*small, "--repeats", "1", "--variants")
        tiny = ("--backbones", *NETWORKS, "--image-size", "32", *once)
        return [
            ("ops", ops, 120),
            ("step", benchmark("step", args, "step", *once, "plain", "fastlt eager"), 90),
            ("switches", benchmark("step", args, "switches", *once, "fastlt NCHW", "fastlt deterministic"), 120),
            ("networks", benchmark("step", args, "networks", *tiny, "fastlt eager"), 120),
            ("loader", benchmark("loader", args, "loader", *small, "--images", "16"), 90),
            ("tune", benchmark("loader", args, "tune", *small, "--images", "16", "--tune", "--num-threads", "1"), 90),
            *((name, command, 200) for name, command in parts.items()),
        ]
    files = ("--images", "1024", "--batch-size", str(BATCH))

    def steps(name: str) -> list[str]:
        backbones, variants = MATRIX[name]
        sizes = ("--batch-size", str(BATCH), "--image-size", str(SIZE))
        few = ("--repeats", "4")  # rounds of ten steps: starting takes longer
        return benchmark("step", args, name, "--backbones", *backbones, *sizes, *few, "--variants", *variants)

    return [
        ("loss_curve", parts["loss_curve"], 220),
        ("compile", parts["compile"], 220),
        ("step", steps("step"), 150),
        ("end_to_end", parts["end_to_end"], 150),
        ("lws", parts["lws"], 40),
        ("profile", parts["profile"], 90),
        ("candidates", parts["candidates"], 200),
        ("ops", ops, 90),
        ("evaluation", parts["evaluation"], 60),
        ("loader", benchmark("loader", args, "loader", *files), 120),
        ("switches", steps("switches"), 200),
        ("networks", steps("networks"), 150),
        ("tune", benchmark("loader", args, "tune", "--tune", *files), LIMIT_S),
    ]


def run_all(args: Arguments) -> int:
    """Run the checks all at once, then every part (with `--only` those alone), as long as there is time."""
    began = time.monotonic()

    def left() -> float:
        return LIMIT_S - (time.monotonic() - began)

    def finish(name: str, command: list[str], limit_s: float) -> bool:
        if left() < LEAST_S:
            print(f"{name}: no time left; the same command goes on with it", flush=True)
            return True
        success = run(name, args, *command, limit_s=min(limit_s, left())) == 0
        with WRITING:  # checks may end at the same time
            names = succeeded(args.out) | {name} if success else succeeded(args.out) - {name}
            (args.out / SUCCEEDED).write_text("".join(f"{each}\n" for each in sorted(names)))
            (args.out / "summary.md").write_text(page(args.out), encoding="utf-8")
        return success

    parts = [job for job in jobs(args) if job[0] != "tune" or has_dali()]
    checks = [("correctness", ["tests/kernels/correctness.py", "--device", args.device], 220.0)]
    if args.only:
        unknown = set(args.only) - {name for name, _, _ in parts}
        if unknown:
            print(f"--only: got {', '.join(sorted(unknown))}; choose of {', '.join(name for name, _, _ in parts)}")
            return 2
        parts, checks = [(name, command, LIMIT_S) for name, command, _ in parts if name in args.only], []
    else:
        parts = [job for job in parts if job[0] not in succeeded(args.out)]
    names = [name for name, _, _ in parts]
    checks += [(name, [*command, "--ahead", *names], limit_s) for name, command, limit_s in parts if name in CHECKS]
    with ThreadPoolExecutor() as pool:
        try:
            successes = list(pool.map(finish, *zip(*checks, strict=True))) if checks else []
        except KeyboardInterrupt:
            for process in list(RUNNING):
                end(process)
            raise
    if "compile" in names:
        for choice in CACHE.rglob("*.best_config"):  # a kernel's block sizes, timed while other processes ran
            choice.unlink()
    if not args.only and not successes[0]:
        print("a kernel is wrong, or the checks took too long: nothing is timed; correctness.txt says more")
        return 1
    successes += [finish(*job) for job in parts if job[0] not in CHECKS]
    return int(not all(successes))


def succeeded(out: Path) -> set[str]:
    """Return the parts that have all their figures in a folder."""
    file = out / SUCCEEDED
    return set(file.read_text().split()) if file.is_file() else set()


def main() -> int:
    """Run everything, or one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that the parts run")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", help="time these parts only, and again")
    parser.add_argument("--part", choices=list(PARTS), help="run this part only, in this process")
    parser.add_argument("--ahead", nargs="+", default=[], help="parts whose steps are compiled ahead")
    args = parser.parse_args()
    if importlib.util.find_spec("fastlt._C") is None:  # this folder hides an installed fastlt
        parser.error("fastlt is not built in this folder; run: pip install --no-build-isolation --no-deps -e .")
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part:
        run_part(args.part, args)
        return 0
    try:
        return run_all(args)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
