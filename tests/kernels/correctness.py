"""Check every kernel on one device against float64, and print a line for each check.

    TRITON_INTERPRET=1 python tests/kernels/correctness.py              # the interpreter, on any machine
    python tests/kernels/correctness.py --device cuda                   # the compiled kernels

A result may be twice as far from float64 as PyTorch's own in the same type, plus a little. Inputs are fresh and
shapes odd, uninitialised memory is NaN, and each kernel runs twice: its bits must not change.
"""

import argparse
import functools
import itertools
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from fastlt.kernels import launch_batch_norm, launch_convolution, launch_crops, launch_intervals
from fastlt.kernels import launch_linear as launch
from torch import Tensor

from fastlt import ops
from fastlt.ops import convolution, reference
from fastlt.ops.colours import color_jitter

SHAPES = {"cpu": ((7, 33, 19), (70, 100, 64), (1, 1, 1)), "cuda": ((7, 33, 19), (252, 507, 123), (512, 8142, 2048))}
DTYPES = {"cpu": (torch.float32, torch.float16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
NEEDS = ([True] * 4, [False] * 4, [False, False, True, False], [False, True, False, True])
FLOOR = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}

Check = tuple[str, bool, str]


def problem(shape: tuple[int, int, int], dtype: torch.dtype, device: str, seed: int) -> dict[str, Tensor]:
    """Return random inputs of one problem; X and W are non-contiguous views."""
    num, classes, width = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    return {
        "x": draw(2 * num, width).to(dtype)[::2],
        "w": (draw(classes, width + 1) / width**0.5).to(dtype)[:, :width],
        "y": torch.randint(0, classes, (num,), generator=generator).to(device),
        "scale": draw(classes).abs() + 0.5,
        "shift": draw(classes),
        "row": draw(num),
        "column": draw(classes),
        "row_weights": draw(num).abs(),
        "class_weights": draw(classes).abs(),
        "grad": draw(num, classes).to(dtype),
    }


def wide(value: object) -> object:
    """Return the same argument in float64."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def near(
    name: str, kernel: Callable[..., object], plain: Callable[..., object], args: tuple, dtype: torch.dtype
) -> Check:
    """Compare kernel(*args) with plain(*args in float64), bounded by the error of plain(*args)."""
    results = [_tensors(f(*a)) for f, a in ((kernel, args), (kernel, args), (plain, args))]
    truth = _tensors(plain(*(wide(a) for a in args)))
    for got, again, simple, exact in zip(*results, truth, strict=True):
        if not torch.equal(got, again):
            return name, False, "two runs differ"
        if got.numel() == 0:
            continue
        largest = max(exact.abs().max().item(), 1.0)
        ours, theirs = ((t.double() - exact).abs().max().item() / largest for t in (got, simple))
        if not ours <= 2 * theirs + FLOOR[dtype]:
            return name, False, f"relative error {ours:.2e}, PyTorch's in the same type {theirs:.2e}"
    return name, True, ""


def _tensors(result: object) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def plain_logits(x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, row: Tensor, column: Tensor) -> Tensor:
    z = torch.nn.functional.linear(x, w).to(torch.promote_types(x.dtype, torch.float32))
    return (z * scale + shift + row[:, None] * column).to(x.dtype)


def plain_tau(x: Tensor, w: Tensor, tau: float) -> Tensor:
    norms = torch.linalg.vector_norm(w.to(torch.promote_types(w.dtype, torch.float32)), dim=1, keepdim=True)
    return torch.nn.functional.linear(x, (w / norms**tau).to(x.dtype))


def check_values(p: dict[str, Tensor], dtype: torch.dtype) -> Iterator[Check]:
    """Logits, their gradients and the cross entropy with all that it can give."""
    x, w, y, scale, shift = (p[name] for name in ("x", "w", "y", "scale", "shift"))
    logits = x, w, scale, shift, p["row"], p["column"]
    yield near("scaled_logits", launch.scaled_logits, plain_logits, logits, dtype)
    yield near("tau_normalized_logits", launch.tau_normalized_logits, plain_tau, (x, w, 0.7), dtype)
    for needs in NEEDS:
        args = p["grad"], x, w, scale, needs
        yield near(f"scaled_logits_backward {needs}", launch.scaled_logits_backward, plain_backward, args, dtype)
        for smoothing, weights in ((0.0, None), (0.1, p["class_weights"])):
            args = x, w, y, p["row_weights"], scale, shift, weights, smoothing, needs
            name = f"cross_entropy {needs} smoothing={smoothing}"
            yield near(name, launch.cross_entropy, reference.cross_entropy, args, dtype)


def plain_backward(grad: Tensor, x: Tensor, w: Tensor, scale: Tensor, needs: list[bool]) -> tuple[Tensor, ...]:
    return reference.scaled_logits_backward(grad, x, w, scale, needs)


def check_rank(p: dict[str, Tensor], dtype: torch.dtype) -> Check:
    """Ranks may differ by the rivals whose score lies within rounding of the label's."""
    x, w, y, scale, shift = (p[name] for name in ("x", "w", "y", "scale", "shift"))
    scores = (x.double() @ w.double().T) * scale.double() + shift.double()
    own = scores.gather(1, y[:, None])
    slack = 1e-5 * scores.abs().amax(1, keepdim=True).clamp_min(1.0)
    ahead, close = (scores > own + slack).sum(1), ((scores - own).abs() <= slack).sum(1) - 1
    rank = launch.label_rank(x, w, y, scale, shift)
    again = launch.label_rank(x, w, y, scale, shift)
    good = ((rank >= ahead) & (rank <= ahead + close)).all() and torch.equal(rank, again)
    return "label_rank", bool(good), ""


def check_random_intervals(p: dict[str, Tensor], dtype: torch.dtype, log: bool) -> Check:
    """At random taus every decision is float64's, but for labels within rounding of their best rival."""
    x, w, y = p["x"], p["w"], p["y"]
    z = x.double() @ w.double().T
    if log:
        slope = torch.linalg.vector_norm(w.double(), dim=1).log2()
        low, high = launch_intervals.intervals(x, w, y, slope.float(), None, True)
        again = launch_intervals.intervals(x, w, y, slope.float(), None, True)
    else:
        slope, z = p["column"].double(), z + p["shift"].double()
        low, high = launch_intervals.intervals(x, w, y, p["column"], p["shift"], False)
        again = launch_intervals.intervals(x, w, y, p["column"], p["shift"], False)
    good = torch.equal(low, again[0]) and torch.equal(high, again[1])
    wrong = decided = 0
    for tau in torch.linspace(-1.0, 3.0, 41, dtype=torch.float64):
        scores = z * torch.exp2(-tau * slope) if log else z - tau * slope
        own = scores.gather(1, y[:, None]).squeeze(1)
        rival = scores.scatter(1, y[:, None], float("-inf")).amax(1)
        sure = (own - rival).abs() > 1e-4 * torch.maximum(own.abs(), scores.abs().amax(1)).clamp_min(1e-3)
        wrong += int((((low < tau) & (tau < high)) != (own > rival))[sure].sum())
        decided += int(sure.sum())
    return f"intervals log={log}", good and wrong == 0, f"{wrong} of {decided} decisions wrong"


def check_nasty_intervals(device: str, dtype: torch.dtype, seed: int) -> Check:
    """Small integers have exact products: duplicates, zero classes, equal norms and negative rows in plenty."""
    generator = torch.Generator().manual_seed(seed)
    num, classes, width = 200, 70, 3
    w = torch.randint(-2, 3, (classes, width), generator=generator) * 2 ** torch.randint(
        0, 3, (classes, 1), generator=generator
    )
    w[torch.randint(0, classes, (9,), generator=generator)] = w[torch.randint(0, classes, (9,), generator=generator)]
    x = torch.randint(-2, 3, (num, width), generator=generator)
    # On samples without a negative entry `kept` has no positive logit, and `below` on positive ones no zero either.
    kept = torch.arange(classes)[(w <= 0).all(1)]
    good, text = True, ""
    below = kept[(w[kept] != 0).any(1)]
    for rows, columns in ((x, w), (x.abs(), w[kept]), (x.abs() + 1, w[below])):
        y = torch.randint(0, len(columns), (num,), generator=generator)
        slope = torch.linalg.vector_norm(columns.double(), dim=1)
        slope = torch.where(slope > 0, slope, 1.0).log2()
        expected = reference.intervals(rows.double(), columns.double(), y, slope, None, True)
        args = rows.to(device, dtype), columns.to(device, dtype), y.to(device), slope.float().to(device)
        got = launch_intervals.intervals(*args, None, True)
        point = expected[1] - expected[0] < 1e-6  # crossings of three lines in one point, apart by rounding only
        for ours, exact in zip(got, expected, strict=True):
            same = point | torch.isclose(ours.cpu().double(), exact, rtol=1e-4, atol=1e-4)
            good &= bool(same.all())
            text = f"{int((~same).sum())} of {num} ends differ" if not same.all() else text
    return f"intervals of integers, seed {seed}", good, text


PIXELS = {"cpu": ((7, 33), (300, 70), (1, 1)), "cuda": ((7, 33), (20_000, 70), (401_408, 256))}


def check_norm(device: str, shape: tuple[int, int], dtype: torch.dtype) -> Iterator[Check]:
    """Batch norm of pixels far from zero, forward and backward, with all that may follow it."""
    num, channels = shape
    generator = torch.Generator().manual_seed(num)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    x, residual, grad = ((draw(num, channels) + shift).to(dtype) for shift in (5, 0, 0))
    weight, bias = draw(channels), draw(channels)
    for other, relu in ((None, True), (residual, True), (None, False), (residual, False)):
        name = f"residual={other is not None} relu={relu}"
        args = x, other, weight, bias, 1e-5, relu
        yield near(f"batch_norm_relu {name}", launch_batch_norm.batch_norm_relu, reference.batch_norm_relu, args, dtype)
        y, mean, variance = reference.batch_norm_relu(*args)
        back = grad, x, y, weight, mean, variance, 1e-5, relu, other is not None
        kernel, plain = launch_batch_norm.batch_norm_relu_backward, reference.batch_norm_relu_backward
        yield near(f"batch_norm_relu_backward {name}", kernel, plain, back, dtype)


def crops(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Five images of noise, and windows, boxes and flips of theirs: what `ops.squares` takes."""
    generator = torch.Generator().manual_seed(seed)
    sides = [(40, 31), (7, 9), (64, 50), (3, 1), (20, 90)]  # height, width
    images = [torch.randint(0, 256, (3 * h * w,), generator=generator, dtype=torch.uint8) for h, w in sides]
    lengths = torch.tensor([len(image) for image in images])
    windows = torch.tensor([[3, 5, 20, 30], [0, 0, 9, 7], [10, 10, 40, 54], [0, 0, 1, 3], [5, 2, 80, 10]])
    boxes = torch.cat([torch.zeros(5, 2), windows[:, 2:].float()], 1)
    boxes[2] = torch.tensor([3.5, 4.25, 30.0, 50.1])
    flips = torch.tensor([False, True, True, False, True])
    places = [torch.cat(images), lengths.cumsum(0) - lengths, torch.tensor([w for _, w in sides], dtype=torch.int32)]
    return places, [windows.int(), boxes, flips]


def squares(*crops: Tensor, size: int, cubic: bool) -> Tensor:
    """`ops.squares` as the kernel has them: the network's input, neither jittered nor normalised."""
    return launch_crops.network_inputs(*crops, None, None, (1.0,) * 3, (0.0,) * 3, size, cubic, torch.uint8)


def check_squares(device: str, size: int, interpolation: str) -> Check:
    """Crops of noise, mirrored and not, against the C++ resampler: apart by 1 of 255 at most, and rarely."""
    places, parts = crops(size)
    named = dict(zip(("windows", "boxes", "flips"), parts, strict=True))
    expected = ops.squares(*places, **named, size=size, interpolation=interpolation)
    moved = [tensor.to(device) for tensor in (*places, *parts)]
    got = [squares(*moved, size=size, cubic=interpolation == "bicubic").cpu() for _ in range(2)]
    apart = (got[0].int() - expected.int()).abs()
    good = torch.equal(*got) and int(apart.max()) <= 1 and float(apart.float().mean()) < 0.02
    return (
        f"squares {interpolation} {size}",
        good,
        f"apart by {apart.max()} at most, {apart.float().mean():.4f} on average",
    )


def check_inputs(device: str, size: int, dtype: torch.dtype, jittered: bool) -> Check:
    """The network's input in one kernel, against squares, colour jitter and normalisation one after the other."""
    places, parts = crops(size)
    factors = torch.tensor([[0.6, 1.4, 1.3], [1.4, 0.7, 0.6], [1.2, 1.3, 1.4], [0.7, 0.6, 1.1], [1.0, 1.4, 0.8]])
    colours = [factors, torch.tensor([0, 1, 3, 4, 5], dtype=torch.uint8)] if jittered else [None, None]
    scale, shift = [0.017, 0.018, 0.0174], [-2.1, -2.0, -1.8]
    # The other way: the kernel's own squares, so that their last bit is not in the comparison
    x = squares(*(tensor.to(device) for tensor in (*places, *parts)), size=size, cubic=False).cpu().float()
    if jittered:
        x = color_jitter(x, *colours)
    expected = (x * torch.tensor(scale) + torch.tensor(shift)).to(dtype).float()
    moved = [None if tensor is None else tensor.to(device) for tensor in (*places, *parts, *colours)]
    got, again = (launch_crops.network_inputs(*moved, scale, shift, size, False, dtype).cpu() for _ in range(2))
    apart = float((got.float() - expected).abs().max())
    close = apart < (1e-4 if dtype == torch.float32 else 0.017)  # or a bf16's last bit
    good = close and got.dtype == dtype and torch.equal(got, again)
    return f"network_inputs {size}{' jittered' * jittered} {dtype}", good, f"apart by {apart:.6f} at most"


def check_grouped(device: str, stride: int, dtype: torch.dtype) -> Iterator[Check]:
    """A grouped convolution of odd images, its input's gradient and its weights'."""
    generator = torch.Generator().manual_seed(stride)
    size, channels, block = ((5, 7), 64, 32) if device == "cpu" else ((29, 31), 256, 64)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    height, width = (-(-side // stride) for side in size)
    x, grad = draw(2, *size, channels), draw(2, height, width, channels)
    weight = convolution.blocks_of(draw(channels, 8, 3, 3) / 8, channels // 8, block)
    turned = weight.transpose(2, 3).contiguous()
    for name, kernel, plain, args in (
        ("", launch_convolution.grouped_conv, convolution.plain_conv, (x, weight, stride, False, height, width)),
        (" input", launch_convolution.grouped_conv, convolution.plain_conv, (grad, turned, stride, True, *size)),
        (" weight", launch_convolution.grouped_conv_weight, convolution.plain_conv_weight, (x, grad, stride, block)),
    ):
        yield near(f"grouped_conv{name} stride {stride}", kernel, plain, args, dtype)


def check_shape(device: str, number: int, dtype: torch.dtype) -> Iterator[Check]:
    """All that a linear head's kernels do, on a problem of one shape and type."""
    p = problem(SHAPES[device][number], dtype, device, number)
    yield from check_values(p, dtype)
    yield check_rank(p, dtype)
    for log in (True, False):
        yield check_random_intervals(p, dtype, log)


def check_empty(device: str) -> Check:
    """No sample at all."""
    empty = problem((0, 5, 4), torch.float32, device, 0)
    got = launch_intervals.intervals(empty["x"], empty["w"], empty["y"], empty["scale"], None, True)
    rank = launch.label_rank(empty["x"], empty["w"], empty["y"], None, None)
    return "empty", got[0].shape == rank.shape == (0,), ""


Group = tuple[str, Callable[..., Check | Iterator[Check]], tuple]


def groups(device: str) -> list[Group]:
    """Return (name, function, its arguments) of every check on one device, the longest first."""
    checks: list[Group] = []
    for number in reversed(range(len(SHAPES[device]))):
        label = str(list(SHAPES[device][number]))
        checks += [(f"{label} {dtype}", check_shape, (device, number, dtype)) for dtype in DTYPES[device]]
    for pixels in reversed(PIXELS[device]):
        checks += [(f"{list(pixels)} {dtype}", check_norm, (device, pixels, dtype)) for dtype in DTYPES[device]]
    for stride in (1, 2):
        checks += [(str(dtype), check_grouped, (device, stride, dtype)) for dtype in DTYPES[device]]
    for size in (5, 16):
        checks += [("", check_squares, (device, size, name)) for name in ("bilinear", "bicubic")]
    for dtype, jittered in ((torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)):
        # More pixels than a program has at a time, and on a GPU as many as it will
        for size in (27, 224) if device == "cuda" else (27,):
            checks.append(("", check_inputs, (device, size, dtype, jittered)))
    checks += [("", check_nasty_intervals, (device, torch.float32, seed)) for seed in range(3)]
    checks.append(("", check_empty, (device,)))
    if device == "cuda":
        checks.append(("", check_large, ()))
    return checks


def run(device: str, number: int) -> list[Check]:
    """Run one group of checks; an exception is a failure of the group, and the others go on."""
    torch.use_deterministic_algorithms(True)  # with it, uninitialised memory is filled with NaN
    label, check, args = groups(device)[number]
    try:
        results = check(*args)
        checks = [results] if isinstance(results, tuple) else list(results)
    except Exception:
        return [(f"{check.__name__} {label}", False, traceback.format_exc())]
    return [(f"{name} {label}".strip(), good, text) for name, good, text in checks]


def check_large() -> Check:
    """Offsets past 2^31 elements."""
    x, w = torch.randn(45_000, 64, device="cuda").bfloat16(), torch.randn(50_000, 64, device="cuda").bfloat16()
    out = launch.scaled_logits(x, w, None, None, None, None)
    good = torch.allclose(out[-5:].float(), x[-5:].float() @ w.float().T, rtol=2e-2, atol=1e-1)
    return "scaled_logits past 2^31 elements", good, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu: under TRITON_INTERPRET=1")
    parser.add_argument("--jobs", type=int, help="processes that compile and check side by side; by default 8 on a GPU")
    args = parser.parse_args()
    if (args.device == "cpu") != launch.INTERPRETED:
        parser.error("set TRITON_INTERPRET=1 for --device cpu, and unset it for --device cuda")
    jobs = args.jobs or (min(8, os.cpu_count() or 1) if args.device == "cuda" else 1)
    check, numbers = functools.partial(run, args.device), range(len(groups(args.device)))
    failed = 0
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name, good, text in itertools.chain.from_iterable(
            map(check, numbers) if jobs == 1 else pool.map(check, numbers)
        ):
            failed += not good
            print("ok  " if good else "FAIL", name, text, flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
