"""Times and peak memory of fastlt.ops beside the plain product, PyTorch eager, torch.compile and the 21-point loop.

    python benchmarks/bench_ops.py [--device cuda] [--quick] [--out FILE]

Each ratio is taken within one process, of the medians of several runs. "product" is the plain product of the same
shape: no method can beat it. On a GPU "floor" is the share of the product's arithmetic or traffic that --tflops and
--tb-per-s allow; pass those measured on the machine.
"""

import argparse
import datetime
import functools
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlt import ops
from fastlt.runtime import compiling
from fastlt.runtime.machine import describe_machine

SHAPES = {
    "cuda": [
        (n, c, d)
        for d in (2048, 512)
        for c in (365, 1000, 8142, 100_000)
        for n in (512, 8192, 24_426, 50_000)
        if n * c <= 8192 * 100_000
    ],
    "cpu": [(4096, 1000, 2048), (4096, 1000, 512), (7300, 365, 2048), (1024, 8142, 2048), (1024, 8142, 512)],
}
QUICK = {"cuda": (24_426, 8142, 2048), "cpu": (512, 365, 512)}  # iNaturalist's val set, and something small
Run = Callable[[], object]


def released_loop(x: Tensor, w: Tensor, y: Tensor) -> list[Tensor]:
    """Return the accuracy at tau = 0, 0.1 .. 2 as the released code does: by a product for every tau."""
    out = []
    for step in range(21):
        normalized = w / w.norm(dim=1, keepdim=True) ** (step / 10)
        out.append(((x @ normalized.T).argmax(1) == y).float().mean())
    return out


def interval_runs(x: Tensor, w: Tensor, y: Tensor, compiled: bool) -> Iterator[tuple[str, str, Run]]:
    """Yield (group, method, run) for each way to compute the accuracy of tau-normalization."""
    prior = torch.linspace(-8, -1, w.shape[0], device=w.device)
    yield "tau curve", "product", lambda: x @ w.T
    yield "tau curve", "fastlt tau_intervals", lambda: ops.tau_intervals(x, w, y)
    yield "tau curve", "fastlt prior_intervals", lambda: ops.prior_intervals(x, w, y, prior)
    yield "tau curve", "21 products eager", lambda: released_loop(x, w, y)
    if compiled:
        loop = compiling.compiled(released_loop)
        yield "tau curve", "21 products torch.compile", lambda: loop(x, w, y)
    yield "rank", "product", lambda: x @ w.T
    yield "rank", "fastlt label_rank", lambda: ops.label_rank(x, w, y)
    yield "rank", "eager topk", lambda: (x @ w.T).topk(min(5, w.shape[0]), dim=1)
    yield "logits", "product", lambda: x @ w.T
    yield "logits", "fastlt tau_normalized_logits", lambda: ops.tau_normalized_logits(x, w, 0.7)
    yield "logits", "eager", lambda: x @ (w / w.norm(dim=1, keepdim=True) ** 0.7).T


def eager_loss(x: Tensor, w: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.cross_entropy((F.linear(x, w) + bias) * scale, y)


def fused_loss(x: Tensor, w: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return ops.scaled_cross_entropy(x, w, y, scale=scale, bias=bias)


compiled_loss = functools.cache(lambda: compiling.compiled(eager_loss))  # once for all batches
LOSSES = {"LWS": (3,), "cRT": (1, 4), "joint": (0, 1, 4)}
"""Uses of the loss, and which of its arguments want gradients."""


def loss_runs(
    x: Tensor, w: Tensor, y: Tensor, compiled: bool, uses: Sequence[str] = tuple(LOSSES)
) -> Iterator[tuple[str, str, Run]]:
    """Yield (group, method, run) for a step of each use of the loss: forward, and the gradients that it needs."""
    scale, bias = (torch.full((w.shape[0],), v, device=w.device) for v in (1.0, 0.0))
    losses: dict[str, Callable[..., Tensor]] = {"fastlt": fused_loss, "eager": eager_loss}
    if compiled:
        losses["torch.compile"] = compiled_loss()
    plain = getattr(F, "linear_cross_entropy", None)
    for use in uses:
        wanted = LOSSES[use]
        # The product forward, and one more for each of X and W that wants a gradient.
        products = 1 + sum(i < 2 for i in wanted)
        yield f"loss {use}", "product", lambda n=products: [x @ w.T for _ in range(n)]
        inputs = [t.detach().requires_grad_(i in wanted) for i, t in enumerate((x, w, y, scale, bias))]
        for name, loss in losses.items():
            yield f"loss {use}", name, lambda loss=loss, inputs=inputs: step(loss, inputs)
        if plain is not None and use != "LWS":
            mixed = [*inputs[:2], inputs[4].detach().to(x.dtype).requires_grad_()]
            yield (
                f"loss {use}",
                "F.linear_cross_entropy",
                lambda mixed=mixed: step(lambda x, w, b: plain(x, w, y, linear_bias=b), mixed),
            )


def step(loss: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(*inputs), [t for t in inputs if t.requires_grad])


def measure(run: Run, device: str, min_time_s: float = 0.5) -> tuple[float, float]:
    """Return the median time of at least three runs, ms, and how far memory rose above its level before, MB."""
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    else:
        peak = peak_on_cpu(run)
    times: list[float] = []
    while len(times) < 3 or sum(times) < min_time_s:
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times), peak


def peak_on_cpu(run: Run) -> float:
    """Return the growth of the resident set while `run` works, MB, sampled every millisecond."""
    statm, page = Path("/proc/self/statm"), 4096 / 1e6
    if not statm.exists():
        return float("nan")
    before = peak = int(statm.read_text().split()[1])
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, int(statm.read_text().split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return (peak - before) * page


def floor_ms(shape: tuple[int, int, int], tflops: float, tb_per_s: float, num_bytes: int) -> float:
    """Return the least time of one product, ms: of its arithmetic, or of reading its factors."""
    num, classes, width = shape
    return max(2 * num * classes * width / tflops / 1e9, (num + classes) * width * num_bytes / tb_per_s / 1e9)


def run_shape(shape: tuple[int, int, int], args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Time every method on one shape; print and yield each with its ratio to the product of its group."""
    num, classes, width = shape
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, width, generator=generator).to(args.device, dtype)
    w = (torch.randn(classes, width, generator=generator) / width**0.5).to(args.device, dtype)
    y = torch.randint(0, classes, (num,), generator=generator).to(args.device)
    least = floor_ms(shape, args.tflops, args.tb_per_s, x.element_size()) if args.device == "cuda" else None
    product = 1.0
    for runs in (interval_runs, loss_runs):
        for group, method, run in runs(x, w, y, args.compile):
            try:
                ms, peak = measure(run, args.device)
            except (torch.OutOfMemoryError, RuntimeError, TypeError) as error:
                product = float("nan") if method == "product" else product
                print(f"{shape} {group:10} {method:30} failed: {str(error)[:80]}", flush=True)
                continue
            product = ms if method == "product" else product
            share = f", {least / ms:5.0%} of the floor" if least and not group.startswith("loss") else ""
            print(f"{shape} {group:10} {method:30} {ms:9.3f} ms {ms / product:6.2f} x product {peak:8.1f} MB{share}")
            row = {"shape": shape, "group": group, "method": method, "ms": ms, "times_product": ms / product}
            yield row | {"peak_mb": peak, "floor_ms": least}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="one shape only")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (always on a GPU)")
    parser.add_argument("--tflops", type=float, default=790.0, help="bfloat16 TFLOP/s of the GPU, for the floor")
    parser.add_argument("--tb-per-s", type=float, default=4.3, help="memory TB/s of the GPU, for the floor")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    args = parser.parse_args()
    args.compile |= args.device == "cuda"
    shapes = [QUICK[args.device]] if args.quick else SHAPES[args.device]
    about = {"date": datetime.date.today().isoformat(), "machine": describe_machine(torch.device(args.device))}
    rows = []
    for shape in shapes:
        for row in run_shape(shape, args):
            rows.append(row)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(about | {"rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
