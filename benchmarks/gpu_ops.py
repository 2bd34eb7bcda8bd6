"""Everything about the kernels that needs a GPU, in one command: correctness first, then the figures.

    python benchmarks/gpu_ops.py --out benchmarks/results/gpu_ops

Writes correctness.txt, ops.json (bench_ops.py) and lws.json (the step of learnable weight scaling, launch by launch and
under a CUDA graph) into --out, and stops at the first kernel that is wrong: only what is right gets timed. Works with
torch 2.11 and triton 3.6, and with torch 2.13 and triton 3.7.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(out: Path, *command: str) -> int:
    """Runs a Python script of the repository, its output to the screen and to a file."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    with (
        out.open("w") as log,
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        for line in process.stdout or ():
            print(line, end="", flush=True)
            log.write(line)
    return process.returncode


def lws_step(out: Path) -> None:
    """Milliseconds of a step at N = 512, C = 8142, D = 2048: eager, compiled, fused, and fused under a CUDA graph."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from fastlt import ops

    x, w = (torch.randn(n, 2048, device="cuda", dtype=torch.bfloat16) for n in (512, 8142))
    y = torch.randint(0, 8142, (512,), device="cuda")
    bias, scale = torch.zeros(8142, device="cuda"), torch.ones(8142, device="cuda", requires_grad=True)

    def eager(scale: Tensor) -> Tensor:
        return F.cross_entropy((F.linear(x, w) + bias) * scale, y)

    def fused(scale: Tensor) -> Tensor:
        return ops.scaled_cross_entropy(x, w, y, scale=scale, bias=bias)

    def time_ms(step, repeats: int = 200) -> float:  # type: ignore[no-untyped-def]
        for _ in range(20):
            step()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / repeats

    compiled = torch.compile(eager)
    losses = {"eager": eager, "torch.compile": compiled, "fastlt": fused}
    times = {name: time_ms(lambda loss=loss: torch.autograd.grad(loss(scale), scale)) for name, loss in losses.items()}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(fused(scale), scale)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.autograd.grad(fused(scale), scale)
    times["fastlt, CUDA graph"] = time_ms(graph.replay)
    times["product"] = time_ms(lambda: x @ w.T)
    print(times)
    out.write_text(
        json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "ms": times}, indent=1)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu_ops", help="folder for the results"
    )
    parser.add_argument("--quick", action="store_true", help="one shape of each benchmark")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if run(args.out / "correctness.txt", "tests/kernels/correctness.py", "--device", "cuda"):
        print("a kernel is wrong: nothing is timed")
        return 1
    lws_step(args.out / "lws.json")
    quick = ["--quick"] if args.quick else []
    bench = ["benchmarks/bench_ops.py", "--device", "cuda", *quick, "--out", str((args.out / "ops.json").resolve())]
    return run(args.out / "ops.txt", *bench)


if __name__ == "__main__":
    sys.exit(main())
