"""Colour jitter and normalisation of uint8 images: the network's input.

Inductor makes over ten launches of the jitter, with float32 images between them; the operation's kernels are two.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backend
from .checks import check_exact

# Shapes: B batch, H, W image size.

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts to grey


def normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the factor and the summand that normalise each channel's bytes; mean and std are shares of 255."""
    return [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def color_jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Blend every image with black, with its mean grey and with its own grey version, in its own order.

    This is `torchvision.transforms.ColorJitter` without hue, in floating point: values are clamped to [0, 255] after
    each blend as there, but not rounded.

    Args:
        x: [B, H, W, 3] in [0, 255], of a floating-point type.
        factors: [B, 3], of brightness, contrast and saturation; 1 leaves the image as it is.
        order: [B] in 0..5, which of the six orders each image takes, as `itertools.permutations` counts them.

    Returns:
        [B, H, W, 3] in [0, 255], in the type of `x`.
    """
    for operation in sequence(order.long()):
        factor = factors.gather(1, operation[:, None])[:, :, None, None]
        grey = (LUMA[0] * x[..., 0] + LUMA[1] * x[..., 1] + LUMA[2] * x[..., 2])[..., None]
        mean = grey.mean((1, 2), keepdim=True)
        operation = operation[:, None, None, None]
        other = torch.where(operation == 0, torch.zeros_like(grey), torch.where(operation == 1, mean, grey))
        x = (other + factor * (x - other)).clamp(0, 255)
    return x


def sequence(order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first, second and third operation of orders [B]: 0 brightness, 1 contrast, 2 saturation."""
    first = order // 2
    lower, upper = (first == 0).long(), 2 - (first == 2).long()
    second = torch.where(order % 2 == 0, lower, upper)
    return first, second, 3 - first - second


@torch.library.custom_op("fastlt::jittered", mutates_args=())
def _jittered(
    images: Tensor, factors: Tensor, order: Tensor, scale: Sequence[float], shift: Sequence[float], dtype: torch.dtype
) -> Tensor:
    """Return the images, jittered, scaled and shifted, [B, H, W, 3] in `dtype`."""
    x = color_jitter(images.contiguous().float(), factors, order)
    return (x * x.new_tensor(scale) + x.new_tensor(shift)).to(dtype)


@_jittered.register_fake
def _(images, factors, order, scale, shift, dtype):  # type: ignore[no-untyped-def]
    return images.new_empty(images.shape, dtype=dtype)


backend.register_kernel(_jittered, "crops", "jittered")


def jittered(
    images: Tensor,
    factors: Tensor,
    order: Tensor,
    *,
    scale: Sequence[float] = (1.0, 1.0, 1.0),
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Jitter the colours of B images as `color_jitter` does, then scale and shift each channel: two passes on a GPU.

    Args:
        images: uint8 [B, H, W, 3].
        factors: float32 [B, 3], of brightness, contrast and saturation; 1 leaves the image as it is.
        order: uint8 [B] in 0..5, the order of the three as `itertools.permutations` counts it.
        scale: Factors of red, green and blue; `normalisation` gives those of the network's input.
        shift: Their summands.
        dtype: Type of the result, to which values are rounded at the end.

    Returns:
        [B, H, W, 3], contiguous; permuted to [B, 3, H, W] it is channels_last.

    Raises:
        ValueError: A shape, type or device does not fit.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> images = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
        >>> brighter = torch.tensor([[2.0, 1.0, 1.0]])
        >>> ops.jittered(images, brighter, torch.tensor([0], dtype=torch.uint8), shift=(1, 2, 3))
        tensor([[[[21., 42., 63.]]]])
    """
    if images.dtype is not torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
        raise ValueError(f"images: got {images.dtype} {list(images.shape)}; expected torch.uint8 [B, H, W, 3]")
    num_images = len(images)
    check_exact("factors", factors, (num_images, 3), torch.float32, "images", images)
    check_exact("order", order, (num_images,), torch.uint8, "images", images)
    if len(scale) != 3 or len(shift) != 3:
        raise ValueError(f"scale, shift: got {scale} and {shift}; expected three numbers each")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype: got {dtype}; expected float32, bfloat16 or float16")
    result: Tensor = _jittered(images, factors, order, scale, shift, dtype)
    return result
