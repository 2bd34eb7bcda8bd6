"""Checks of kernels/launch_batch_norm.py."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from checking import DTYPES, Check, Group, Launch, near
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

    x, residual, grad, second = ((draw(num, channels) + shift).to(dtype) for shift in (5, 0, 0, 0))
    weight, bias = draw(channels), draw(channels)
    for other, relu in ((None, True), (residual, True), (None, False), (residual, False)):
        name = f"residual={other is not None} relu={relu}"
        args = x, other, weight, bias, bias.clone(), weight.abs(), 0.1, 1e-5, relu
        kernel, plain = moving(launch_batch_norm.batch_norm_relu), moving(reference.batch_norm_relu)
        yield near(f"batch_norm_relu {name}", kernel, plain, args, dtype)
        y, mean, variance = reference.batch_norm_relu(*args[:4], None, None, *args[6:])
        y = y if relu and other is not None else None
        for branch in (None, second) if y is not None else (None,):
            back = grad, branch, x, y, weight, bias, mean, variance, 1e-5, relu
            kernel, plain = launch_batch_norm.batch_norm_relu_backward, reference.batch_norm_relu_backward
            yield near(f"batch_norm_relu_backward {name} {branch is not None}", kernel, plain, back, dtype)
    yield check_mask(x, weight, bias, grad)


def moving(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Return a batch norm that moves copies of the running statistics, and returns these too."""

    def call(*args: Any) -> tuple[Tensor, ...]:
        running = args[4].clone(), args[5].clone()
        return *function(*args[:4], *running, *args[6:]), *running

    return call


def check_mask(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> Check:
    """The mask that the backward pass takes from x is where the forward pass's y is positive, to the last bit.

    The gradient of the pixels' sums shows it: with gradients of 1 the bias's counts the pixels that passed.
    """
    y, mean, variance = launch_batch_norm.batch_norm_relu(x, None, weight, bias, None, None, 0.1, 1e-5, True)
    ones = torch.ones_like(grad)
    *_, count = launch_batch_norm.batch_norm_relu_backward(
        ones, None, x, None, weight, bias, mean, variance, 1e-5, True
    )
    good = torch.equal(count, (y > 0).sum(0).float())
    return "batch_norm_relu mask", good, "" if good else "the mask is not y > 0"


def groups(device: str) -> list[Group]:
    return [
        (f"{list(pixels)} {dtype}", check_norm, (device, pixels, dtype))
        for pixels in reversed(PIXELS[device])
        for dtype in DTYPES[device]
    ]


def launches() -> Iterator[Launch]:
    every = [(False, False), (False, True), (True, False), (True, True)]
    cases = [(torch.bfloat16, (802_816, 64), every), (torch.float32, (25_088, 2048), every)]
    cases += [(dtype, size, every[3:]) for dtype, size in ((torch.bfloat16, (7, 33)), (torch.float16, (25_088, 2048)))]
    for dtype, size, ways in [*cases, (torch.float32, (1, 1), every[1:2])]:
        x, vector = torch.empty(size, dtype=dtype), torch.empty(size[1])
        for residual, relu in ways:
            running = (vector, vector) if relu else (None, None)
            other = x if residual else None
            yield launch_batch_norm.batch_norm_relu, x, other, vector, vector, *running, 0.1, 1e-5, relu
            y = x if residual and relu else None
            for other in (None, y):
                vectors = [vector] * 4
                yield launch_batch_norm.batch_norm_relu_backward, x, other, x, y, *vectors, 1e-5, relu
