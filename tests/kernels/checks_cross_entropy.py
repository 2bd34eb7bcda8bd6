"""Checks of kernels/launch_cross_entropy.py: losses and all gradients, of products and of stored logits."""

import functools
from collections.abc import Iterator
from types import ModuleType
from unittest import mock

import torch
from checking import SHAPES, Check, Group, Launch, each_shape, head, layouts, near, problem
from fastlt.kernels import launch_cross_entropy as launch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.runtime.interpreter import GridExecutor

from fastlt.ops import reference_cross_entropy as reference

IGNORED = -7
ALL, NONE = [True] * 5, [False] * 5
NEEDS = (ALL, NONE, [False, False, True, False, False], [False, True, False, True, False])


def losses_and_gradients(module: ModuleType, *args: object, keep: bool = True) -> tuple[Tensor, ...]:
    """Losses of heads and the gradients that are needed, by the launchers or by the reference."""
    *inputs, smoothing, mean, needs, grad = args
    classes = inputs[1].shape[1]
    width = (classes + (-classes % 16 if module is launch else 0)) if keep and any(needs) else 0
    losses, *kept = module.cross_entropy(*inputs, smoothing, IGNORED, mean, width)
    if not any(needs):
        return (losses,)
    return losses, *module.cross_entropy_backward(grad, *inputs, *kept, smoothing > 0, needs)


def heads_of(p: dict[str, Tensor], num_heads: int) -> tuple[Tensor, ...]:
    """Return (features, weight, labels, scale, bias, offset) of heads side by side; some rows are ignored."""
    factors = [1.0, 0.5, -0.25][:num_heads]
    weight = torch.stack([p["w"] * factor for factor in factors])
    scale, bias = (torch.stack([p[name] * factor for factor in factors]) for name in ("scale", "column"))
    labels = p["y"].clone()
    labels[1::5] = IGNORED
    return p["x"], weight, labels, scale, bias, p["shift"]


def check_values(device: str, number: int, dtype: torch.dtype) -> Iterator[Check]:
    """Losses and gradients, with and without weights, smoothing and a mean, and of several heads."""
    p = problem(SHAPES[device][number], dtype, device, number)
    kernel, plain = (functools.partial(losses_and_gradients, module) for module in (launch, reference))
    cases = [(needs, 1, smoothing) for needs in NEEDS for smoothing in (0.0, 0.1)] + [(ALL, 3, 0.1)]
    for needs, num_heads, smoothing in cases:
        x, w, y, scale, bias, offset = heads_of(p, num_heads)
        weights = p["class_weights"] if smoothing else None
        grad = (p["row_weights"] if smoothing else torch.ones(1, device=device)).expand(num_heads, len(x))
        args = x, w, y, scale, bias, offset, weights, smoothing, bool(smoothing), needs, grad
        yield near(f"cross_entropy {needs} heads={num_heads} smoothing={smoothing}", kernel, plain, args, dtype)
    x, w, y, *_ = heads_of(p, 1)
    args = x, w, y, None, None, None, None, 0.1, True, [False, True, False, True, True], p["row_weights"][None]
    yield near("cross_entropy without vectors", kernel, plain, args, dtype)


def check_chunks(device: str, number: int, dtype: torch.dtype) -> Check:
    """Gradients whose logits are too many to be kept: computed again, some rows at a time."""
    p = problem(SHAPES[device][number], dtype, device, number)
    kernel, plain = (functools.partial(losses_and_gradients, module, keep=False) for module in (launch, reference))
    args = *heads_of(p, 2), None, 0.1, True, ALL, p["row_weights"].expand(2, -1)
    before = launch.CHUNK_BYTES
    launch.CHUNK_BYTES = 4 * 2 * (p["w"].shape[0] + 16) * 5  # five rows
    try:
        return near("cross_entropy in chunks", kernel, plain, args, dtype)
    finally:
        launch.CHUNK_BYTES = before


def rescaled(module: ModuleType, *args: Tensor | None) -> tuple[Tensor, ...]:
    """Losses of stored logits and the gradient of their scales, by the launchers or by the reference."""
    grad, *inputs = args
    losses, *kept = module.rescaled_cross_entropy(*inputs)
    return losses, module.rescaled_cross_entropy_backward(grad, *inputs, *kept)


def check_rescaled(device: str, number: int, dtype: torch.dtype) -> Iterator[Check]:
    """Stored logits, rows of them in any order and more than once, beside columns that are not theirs."""
    p = problem(SHAPES[device][number], dtype, device, number)
    num, classes, _ = SHAPES[device][number]
    logits = torch.full((num, classes + -classes % 16), float("nan"), dtype=dtype, device=device)
    logits[:, :classes] = 4 * (p["x"] @ p["w"].T)
    rows = (torch.arange(num, device=device) * 5 + 3) % num
    scale, labels = torch.stack([p["scale"], p["column"]]), p["y"].clone()
    labels[1::5] = -100
    kernel, plain = (functools.partial(rescaled, module) for module in (launch, reference))
    for which, chosen in (("rows", rows), ("all rows", None)):
        for view in (logits, logits[:, :classes]):
            args = p["row_weights"].expand(2, -1), view, scale, labels, chosen
            yield near(f"rescaled_cross_entropy {which} {view.shape[1]}", kernel, plain, args, dtype)


def check_labels(device: str) -> Iterator[Check]:
    """A label out of range makes its own row NaN and no other; the mean over none but ignored rows is NaN."""
    p = problem((9, 5, 4), torch.float32, device, 0)
    for label in (-1, 5, 2**40):
        y = p["y"].clone()
        y[3] = label
        args = p["x"], p["w"][None], y, None, None, None, None, 0.0, False, ALL, torch.ones(1, 9, device=device)
        losses, dx, *_ = losses_and_gradients(launch, *args)
        other = torch.arange(9, device=device) != 3
        good = losses[0].isnan().equal(~other) and dx.isnan().all(1).equal(~other) and bool(dx[other].isfinite().all())
        yield f"label {label}", good, ""
    nothing = torch.full((9,), IGNORED, device=device)
    losses, *_ = launch.cross_entropy(p["x"], p["w"][None], nothing, None, None, None, None, 0.0, IGNORED, True, 0)
    yield "nothing but ignored rows", bool(losses.isnan().all()), ""
    empty = p["x"][:0], p["w"][None], p["y"][:0], None, None, None, None
    losses, dx, dw, ds, *_ = losses_and_gradients(launch, *empty, 0.0, True, ALL, torch.ones(1, 0, device=device))
    yield "no rows", losses.shape == (1, 0) and dx.shape == (0, 4) and not dw.any() and not ds.any(), ""


class Counted(TorchDispatchMode):
    """Counts launches: of our kernels, and of PyTorch's operations that compute or copy anything."""

    FREE = (
        "empty",
        "view",
        "slice",
        "select",
        "expand",
        "unsqueeze",
        "detach",
        "alias",
        "split",
        "unbind",
        "squeeze",
        "permute",
    )

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[str] = []
        self.others: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = function.name().removeprefix("aten::")
        if not any(word in name for word in self.FREE):
            self.others.append(name)
        return function(*args, **(kwargs or {}))

    def launch(self, run):  # type: ignore[no-untyped-def]
        def call(kernel, *args, **options):  # type: ignore[no-untyped-def]
            self.kernels.append(kernel.fn.__name__)
            with _disable_current_modes():  # the interpreter's own tensors
                return run(kernel, *args, **options)

        return call


def check_launches(what: str) -> Check:
    """Loss and gradient are four launches for the scales of a head or of stored logits, and a product for weights."""
    p = problem((9, 32, 64), torch.float32, "cpu", 0)
    grad, scale, x, w = torch.ones(1, 1).expand(1, 9), p["scale"][None], p["x"].contiguous(), p["w"].contiguous()[None]
    with Counted() as counted, mock.patch.object(GridExecutor, "__call__", counted.launch(GridExecutor.__call__)):
        if what == "stored":
            rescaled(launch, grad, p["grad"], scale, p["y"], p["y"])
        else:
            needs = [False, what == "weight", True, False, False]
            args = x, w, p["y"], scale, scale, None, None, 0.0, True, needs, grad
            losses_and_gradients(launch, *args)
    first = "stored_partition_kernel" if what == "stored" else "partition_kernel"
    expected = [first, "row_kernel", "gradient_kernel", "sum_kernel"]
    good = counted.kernels == expected and counted.others == (["mm.out"] if what == "weight" else [])
    return f"launches {what}", good, f"{counted.kernels} and {counted.others}"


def groups(device: str) -> list[Group]:
    return [
        *each_shape(device, check_values),
        *each_shape(device, check_chunks)[len(SHAPES[device]) :],  # not the largest shape
        *each_shape(device, check_rescaled),
        ("", check_labels, (device,)),
        *(("", check_launches, (what,)) for what in ("scale", "weight", "stored") if device == "cpu"),
    ]


def launches() -> Iterator[Launch]:
    kept, again = (functools.partial(losses_and_gradients, launch, keep=keep) for keep in (True, False))
    for dtype, size in layouts():
        x, w, y, s, r = head(size, dtype)
        yield kept, x, w[None], y, s[None], s[None], s, s, 0.1, False, ALL, r[None]
        yield kept, x, w[None], y, None, None, None, None, 0.0, True, NONE, None
        yield rescaled_step, torch.empty(437_513, size[1] + -size[1] % 16, dtype=dtype), s[None], y[:512]
    for num_heads, size in ((1, (512, 8142, 2048)), (3, (512, 365, 2048))):
        x, w, y, s, _ = head(size, torch.bfloat16)
        weight, vector = w.expand(num_heads, -1, -1).contiguous(), s.expand(num_heads, -1).contiguous()
        grad = torch.empty(num_heads, 1).expand(-1, len(x))  # of the mean over the rows
        yield kept, x, weight, y, vector, None, None, None, 0.0, True, [False, False, True, False, False], grad
        yield kept, x, weight, y, None, vector, None, None, 0.0, True, [False, True, False, True, False], grad
        yield again, x, weight, y, None, vector, None, None, 0.1, True, [True, True, False, True, False], grad


def rescaled_step(logits: Tensor, scale: Tensor, labels: Tensor) -> None:
    grad = torch.empty(len(scale), 1).expand(-1, len(labels))
    rescaled(launch, grad, logits, scale, labels, torch.empty_like(labels))
