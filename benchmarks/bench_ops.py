"""Times and peak memory of fastlt.ops on a CPU, beside the plain product, PyTorch eager and the 21-point loop.

    python benchmarks/bench_ops.py [--quick] [--compile] [--out FILE]

Each ratio is taken within one process, of the medians of several runs. "product" is the plain product of the same
shape: no method can beat it. `python -m benchmarks.gpu` times the same methods on a GPU.
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

SHAPES = [(4096, 1000, 2048), (4096, 1000, 512), (7300, 365, 2048), (1024, 8142, 2048), (1024, 8142, 512)]
QUICK = [(512, 365, 512)]
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
    yield "rank", "fastlt predictions", lambda: ops.predictions(x, w, y)
    yield "rank", "eager topk", lambda: (x @ w.T).topk(min(5, w.shape[0]), dim=1)
    yield "logits", "product", lambda: x @ w.T
    yield "logits", "fastlt tau_normalized_logits", lambda: ops.tau_normalized_logits(x, w, 0.7)
    yield "logits", "eager", lambda: x @ (w / w.norm(dim=1, keepdim=True) ** 0.7).T


def eager_loss(x: Tensor, w: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.cross_entropy((F.linear(x, w) + bias) * scale, y)


def fused_loss(x: Tensor, w: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return ops.scaled_cross_entropy(x, w, y, scale=scale, bias=bias)


compiled_loss = functools.cache(lambda: compiling.compiled(eager_loss, dynamic=False))  # once for all batches
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


def measure(run: Run, min_time_s: float = 0.5) -> tuple[float, float]:
    """Return the median time of at least three runs, ms, and how far memory rose above its level before, MB."""
    run()
    peak = peak_memory(run)
    times: list[float] = []
    while len(times) < 3 or sum(times) < min_time_s:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times), peak


def peak_memory(run: Run) -> float:
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


def run_shape(shape: tuple[int, int, int], compiled: bool) -> Iterator[dict[str, object]]:
    """Time every method on one shape; print and yield each with its ratio to the product of its group."""
    num, classes, width = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, width, generator=generator)
    w = torch.randn(classes, width, generator=generator) / width**0.5
    y = torch.randint(0, classes, (num,), generator=generator)
    product = 1.0
    for runs in (interval_runs, loss_runs):
        for group, method, run in runs(x, w, y, compiled):
            ms, peak = measure(run)
            product = ms if method == "product" else product
            ratio = ms / product
            print(f"{shape} {group:10} {method:30} {ms:9.3f} ms {ratio:6.2f} x product {peak:8.1f} MB", flush=True)
            row = {"shape": shape, "group": group, "method": method, "ms": ms, "times_product": ratio}
            yield row | {"peak_mb": peak}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one shape only")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    args = parser.parse_args()
    about = {"date": datetime.date.today().isoformat(), "machine": describe_machine(torch.device("cpu"))}
    rows = []
    for shape in QUICK if args.quick else SHAPES:
        for row in run_shape(shape, args.compile):
            rows.append(row)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(about | {"rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
