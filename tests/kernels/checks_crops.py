"""Checks of kernels/launch_crops.py: squares cut out of images, colour jitter, normalisation."""

import torch
from checking import Check, Group
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


def groups(device: str) -> list[Group]:
    checks: list[Group] = []
    # More pixels than a program has at a time, and on a GPU as many as it will
    for size in (224, 27) if device == "cuda" else (27,):
        for dtype, jittered in ((torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)):
            checks.append(("", check_inputs, (device, size, dtype, jittered)))
    for size in (16, 5):
        checks += [("", check_squares, (device, size, name)) for name in ("bilinear", "bicubic")]
    return checks
