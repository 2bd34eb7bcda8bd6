"""Checks of kernels/launch_batch_norm.py."""

from collections.abc import Iterator

import torch
from checking import DTYPES, Check, Group, near
from fastlt.kernels import launch_batch_norm
from torch import Tensor

from fastlt.ops import reference

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


def groups(device: str) -> list[Group]:
    return [
        (f"{list(pixels)} {dtype}", check_norm, (device, pixels, dtype))
        for pixels in reversed(PIXELS[device])
        for dtype in DTYPES[device]
    ]
