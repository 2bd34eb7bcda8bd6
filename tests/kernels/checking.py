"""What the checks of all kernels share: types, random problems of a linear head, the comparison with float64."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

DTYPES = {"cpu": (torch.float32, torch.float16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
SHAPES = {"cpu": ((7, 33, 19), (70, 100, 64), (1, 1, 1)), "cuda": ((7, 33, 19), (252, 507, 123), (512, 8142, 2048))}
NEEDS = ([True] * 4, [False] * 4, [False, False, True, False], [False, True, False, True])
FLOOR = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}

Check = tuple[str, bool, str]
"""Name, whether the kernel is right, what to print beside it."""
Group = tuple[str, Callable[..., Check | Iterator[Check]], tuple]
"""Label, function, its arguments: the checks that one process runs together."""
Launch = tuple
"""A launcher of kernels/launch_*.py and its arguments, for the ahead-of-time gate; tensors are made without memory."""


def modules() -> list[ModuleType]:
    """Return every checks_<module>.py beside this file."""
    return [importlib.import_module(path.stem) for path in sorted(Path(__file__).parent.glob("checks_*.py"))]


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


def exact_problem(device: str, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return X, W, labels and a bias whose products are exact in any order: ties in plenty, in many tiles."""
    generator = torch.Generator().manual_seed(seed)
    num, classes, width = 150, 530, 64
    x, w = (torch.randint(-1, 2, (rows, width), generator=generator) for rows in (num, classes))
    w[classes // 2 :] = w[: classes - classes // 2]  # every class twice, in other tiles
    labels, bias = torch.randint(0, classes, (num,), generator=generator), torch.zeros(classes)
    return x.to(device, dtype), w.to(device, dtype), labels.to(device), bias.to(device)


def misaligned(matrix: Tensor) -> Tensor:
    """Return the same matrix where neither vectors nor descriptors can read it: every row starts at an odd address."""
    room = matrix.new_zeros(matrix.shape[0], matrix.shape[1] + 1)
    room[:, 1:] = matrix
    return room[:, 1:]


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


def each_shape(device: str, check: Callable[..., Check | Iterator[Check]], *args: object) -> list[Group]:
    """Return a group of check(device, number of a shape, type, *args) for each shape and type, the largest first."""
    return [
        (f"{list(SHAPES[device][number])} {dtype}", check, (device, number, dtype, *args))
        for number in reversed(range(len(SHAPES[device])))
        for dtype in DTYPES[device]
    ]


def layouts() -> list[tuple[torch.dtype, tuple[int, int, int]]]:
    """Return types and sizes (N, C, D) of heads to compile: real ones, with all sizes aligned, odd, and of one."""
    half, whole = torch.bfloat16, torch.float32
    sizes = [(half, (24_426, 8142, 2048)), (half, (512, 1024, 2048)), (half, (333, 365, 512))]
    return [*sizes, (whole, (24_426, 8142, 2048)), (whole, (1, 1, 1)), (torch.float16, (24_426, 1000, 2048))]


def head(size: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return features, weight, labels, a vector of the classes and one of the rows."""
    num, classes, width = size
    features, weight = torch.empty(num, width, dtype=dtype), torch.empty(classes, width, dtype=dtype)
    return features, weight, torch.empty(num, dtype=torch.int64), torch.empty(classes), torch.empty(num)
