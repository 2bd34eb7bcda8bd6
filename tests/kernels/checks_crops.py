"""Checks of kernels/launch_crops.py: squares cut out of images, and colour jitter with normalisation."""

from collections.abc import Iterator

import torch
from checking import Check, Group, Launch, near
from fastlt.kernels import launch_crops
from torch import Tensor

from fastlt import ops
from fastlt.ops.colours import color_jitter


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


def check_squares(device: str, size: int, interpolation: str) -> Check:
    """Crops of noise, mirrored and not, against the C++ resampler: apart by 1 of 255 at most, and rarely."""
    places, parts = crops(size)
    named = dict(zip(("windows", "boxes", "flips"), parts, strict=True))
    expected = ops.squares(*places, **named, size=size, interpolation=interpolation)
    moved = [tensor.to(device) for tensor in (*places, *parts)]
    got = [launch_crops.squares(*moved, size, interpolation == "bicubic").cpu() for _ in range(2)]
    apart = (got[0].int() - expected.int()).abs()
    good = torch.equal(*got) and int(apart.max()) <= 1 and float(apart.float().mean()) < 0.02
    return (
        f"squares {interpolation} {size}",
        good,
        f"apart by {apart.max()} at most, {apart.float().mean():.4f} on average",
    )


def plain_jittered(
    images: Tensor, factors: Tensor, order: Tensor, scale: list[float], shift: list[float], dtype: torch.dtype
) -> Tensor:
    x = color_jitter(images.to(factors.dtype), factors, order)
    x = x * x.new_tensor(scale) + x.new_tensor(shift)
    return x if x.dtype is torch.float64 else x.to(dtype)


def check_jittered(device: str, shape: tuple[int, int, int], dtype: torch.dtype) -> Iterator[Check]:
    """Images of noise in all orders, some with factors of one, also where the memory is not in rows."""
    num, height, width = shape
    generator = torch.Generator().manual_seed(height)
    images = torch.randint(0, 256, (num, height, width, 3), generator=generator, dtype=torch.uint8)
    images[-1:] = images[-1:] // 128 * 255  # which the blends cut off at both ends
    factors = 0.6 + 0.8 * torch.rand(num, 3, generator=generator)
    factors[::4] = 1.0
    order = torch.arange(num).remainder(6).to(torch.uint8)
    colours = factors.to(device), order.to(device), [0.017, 0.018, 0.0174], [-2.1, -2.0, -1.8], dtype
    turned = images.to(device).transpose(1, 2)
    for name, given in (("", images.to(device)), (" turned", turned)):
        yield near(f"jittered{name}", launch_crops.jittered, plain_jittered, (given, *colours), dtype)


def groups(device: str) -> list[Group]:
    # In the interpreter, more pixels than all programs that sum an image's grey have at a time
    shapes = ((256, 224, 224), (7, 33, 65), (1, 1, 1)) if device == "cuda" else ((7, 91, 93), (6, 5, 7), (0, 4, 4))
    checks: list[Group] = []
    for shape in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            checks.append((f"{list(shape)} {dtype}", check_jittered, (device, shape, dtype)))
    for size in (23, 5):  # the larger one's pixels take a program several turns
        checks += [("", check_squares, (device, size, name)) for name in ("bilinear", "bicubic")]
    return checks


def launches() -> Iterator[Launch]:
    data, starts = torch.empty(1 << 24, dtype=torch.uint8), torch.empty(256, dtype=torch.int64)
    parts = torch.empty(256, 4, dtype=torch.int32), torch.empty(256, 4), torch.empty(256, dtype=torch.bool)
    factors, order = torch.empty(256, 3), torch.empty(256, dtype=torch.uint8)
    for size, dtype in ((224, torch.bfloat16), (224, torch.float16), (224, torch.float32), (27, torch.bfloat16)):
        for cubic in (False, True):
            yield launch_crops.squares, data, starts, starts.int(), *parts, size, cubic
        images = torch.empty(256, size, size, 3, dtype=torch.uint8)
        yield launch_crops.jittered, images, factors, order, (0.5,) * 3, (0.5,) * 3, dtype
