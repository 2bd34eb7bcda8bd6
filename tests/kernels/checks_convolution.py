"""Checks of kernels/launch_convolution.py."""

from collections.abc import Iterator

import torch
from checking import DTYPES, Check, Group, near
from fastlt.kernels import launch_convolution
from torch import Tensor

from fastlt.ops import convolution


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


def groups(device: str) -> list[Group]:
    return [(str(dtype), check_grouped, (device, stride, dtype)) for stride in (1, 2) for dtype in DTYPES[device]]
