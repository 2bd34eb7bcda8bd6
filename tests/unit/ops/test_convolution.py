"""Grouped convolutions as products of channel blocks: PyTorch's, forward and backward."""

import pytest
import torch
from torch.nn import functional as F

from fastlt import ops
from fastlt.ops import convolution


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (64, 2), (12, 3), (64, 64)])
@pytest.mark.parametrize("size", [(5, 4), (6, 6), (1, 3)])
def test_it_is_pytorchs_grouped_convolution(channels: int, groups: int, stride: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(channels + stride)
    images = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(channels, channels // groups, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    out = ops.grouped_conv(images, weight, groups=groups, stride=stride)
    expected = F.conv2d(images, weight, None, stride, 1, 1, groups)
    torch.testing.assert_close(out, expected)
    grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(each, (images, weight), grad) for each in (out, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_operations_are_registered_whole() -> None:
    x, weight = torch.randn(2, 4, 3, 8), torch.randn(9, 2, 4, 4)
    torch.library.opcheck(convolution._grouped_conv, (x, weight, 2, False, 2, 2))
    torch.library.opcheck(convolution._grouped_conv, (x[:, :2, :2].contiguous(), weight, 2, True, 4, 3))
    torch.library.opcheck(convolution._grouped_conv_weight, (x, torch.randn(2, 2, 2, 8), 2, 4))


def test_what_does_not_fit_is_refused() -> None:
    images, weight = torch.zeros(1, 8, 4, 4), torch.zeros(8, 2, 3, 3)
    with pytest.raises(ValueError, match=r"^images\b.*\[8, 2, 3, 3\]"):
        ops.grouped_conv(images, weight, groups=2)
    with pytest.raises(ValueError, match=r"^stride\b.*got 3\b"):
        ops.grouped_conv(images, weight, groups=4, stride=3)


@pytest.mark.parametrize(
    ("block", "dtype", "taken"),
    [(64, torch.bfloat16, True), (32, torch.float32, True), (64, torch.float64, False)]
    + [(block, torch.bfloat16, False) for block in (8, 96, 512)],
)
def test_a_kernel_takes_what_tensor_cores_multiply(block: int, dtype: torch.dtype, taken: bool) -> None:
    assert convolution.has_kernel(torch.empty(1, dtype=dtype), block) == taken
