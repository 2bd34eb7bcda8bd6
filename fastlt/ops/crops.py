"""Squares cut out of decoded images that lie one after another in memory: the batches of a cache."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import _C
from ..config import INTERPOLATIONS, check_choice
from . import backend
from .checks import check_device
from .colours import color_jitter, normalisation

# Shapes: B images, T bytes of all images, S the side of a square.


@torch.library.custom_op("fastlt::network_inputs", mutates_args=())
def _network_inputs(
    data: Tensor,
    starts: Tensor,
    widths: Tensor,
    windows: Tensor,
    boxes: Tensor,
    flips: Tensor,
    factors: Tensor | None,
    order: Tensor | None,
    scale: Sequence[float],
    shift: Sequence[float],
    size: int,
    cubic: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Return the squares, jittered, scaled and shifted, [B, S, S, 3] in `dtype`; in uint8, as they are."""
    squares = np.empty((len(starts), size, size, 3), np.uint8)
    pixels = data.numpy()
    parts = []
    for start, width, (x, y, across, down) in zip(starts.tolist(), widths.tolist(), windows.tolist(), strict=True):
        rows = pixels[start : start + 3 * width * (y + down)].reshape(y + down, width, 3)
        parts.append(np.ascontiguousarray(rows[y:, x : x + across]))
    _C.resample_batch(
        parts,
        boxes=boxes.double().numpy(),
        flips=flips.numpy(),
        interpolation="bicubic" if cubic else "bilinear",
        out=squares,
        num_threads=torch.get_num_threads(),
    )
    if dtype is torch.uint8:
        return torch.from_numpy(squares)
    x = torch.from_numpy(squares).float()
    if factors is not None and order is not None:
        x = color_jitter(x, factors, order)
    return (x * x.new_tensor(scale) + x.new_tensor(shift)).to(dtype)


@_network_inputs.register_fake
def _(data, starts, widths, windows, boxes, flips, factors, order, scale, shift, size, cubic, dtype):  # type: ignore[no-untyped-def]
    return data.new_empty((starts.shape[0], size, size, 3), dtype=dtype)


backend.register_kernel(_network_inputs, "crops", "network_inputs")


def squares(
    data: Tensor,
    starts: Tensor,
    widths: Tensor,
    *,
    windows: Tensor,
    boxes: Tensor,
    flips: Tensor,
    size: int,
    interpolation: str = "bilinear",
) -> Tensor:
    """Crop, resize and mirror B images, antialiased as Pillow does: bit for bit on a CPU, within 1 of 255 on a GPU.

    Args:
        data: uint8 [T], images of RGB rows without padding, one after another.
        starts: int64 [B], where each image begins.
        widths: int32 [B], their widths, pixels.
        windows: int32 [B, 4], x, y, width, height, pixels: the part that exists for the filter.
        boxes: float32 [B, 4], left, top, right, bottom in the window, pixels: what is resampled.
        flips: bool [B], whether the result is mirrored left to right.
        size: S, the side of the squares, pixels.
        interpolation: bilinear or bicubic.

    Returns:
        uint8 [B, S, S, 3].

    Raises:
        ValueError: A shape, type or device does not fit, or the interpolation is unknown.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> data = torch.arange(12, dtype=torch.uint8)  # one image of 2 x 2 pixels
        >>> starts, widths = torch.tensor([0]), torch.tensor([2], dtype=torch.int32)
        >>> windows = torch.tensor([[0, 0, 2, 2]], dtype=torch.int32)
        >>> boxes, flips = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([False])
        >>> ops.squares(data, starts, widths, windows=windows, boxes=boxes, flips=flips, size=1)
        tensor([[[[5, 6, 7]]]], dtype=torch.uint8)
    """
    crops = data, starts, widths, windows, boxes, flips
    _check(*crops, None, None, size, interpolation)
    unchanged = None, None, (1.0,) * 3, (0.0,) * 3
    result: Tensor = _network_inputs(*crops, *unchanged, size, interpolation == "bicubic", torch.uint8)
    return result


def network_inputs(
    data: Tensor,
    starts: Tensor,
    widths: Tensor,
    *,
    windows: Tensor,
    boxes: Tensor,
    flips: Tensor,
    factors: Tensor | None = None,
    order: Tensor | None = None,
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
    interpolation: str = "bilinear",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Crop, resize, mirror, jitter and normalise B images, in one kernel on a GPU.

    The result is that of `squares`, followed by `fastlt.ops.colours.color_jitter` and normalisation.

    Args:
        data: uint8 [T]; this and all up to `flips`, `size` and `interpolation` as in `squares`.
        starts: int64 [B].
        widths: int32 [B].
        windows: int32 [B, 4].
        boxes: float32 [B, 4].
        flips: bool [B].
        factors: float32 [B, 3], of brightness, contrast and saturation; None leaves colours alone.
        order: uint8 [B] in 0..5, the order of the three as `itertools.permutations` counts it; None without factors.
        mean: Means of red, green and blue, as shares of 255.
        std: Standard deviations of red, green and blue, as shares of 255.
        size: S, pixels.
        interpolation: bilinear or bicubic.
        dtype: Type of the result: float32 or bfloat16.

    Returns:
        [B, S, S, 3] in `dtype`; permuted to [B, 3, S, S] its memory is channels_last.

    Raises:
        ValueError: A shape, type or device does not fit, or the interpolation is unknown.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> data = torch.arange(12, dtype=torch.uint8)  # one image of 2 x 2 pixels
        >>> starts, widths = torch.tensor([0]), torch.tensor([2], dtype=torch.int32)
        >>> windows = torch.tensor([[0, 0, 2, 2]], dtype=torch.int32)
        >>> boxes, flips = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([False])
        >>> crops = {"windows": windows, "boxes": boxes, "flips": flips, "size": 1}
        >>> 255 * ops.network_inputs(data, starts, widths, **crops, mean=(0, 0, 0), std=(1, 1, 1))
        tensor([[[[5.0000, 6.0000, 7.0000]]]])
    """
    crops = data, starts, widths, windows, boxes, flips
    _check(*crops, factors, order, size, interpolation)
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean, std: got {mean} and {std}; expected three numbers each")
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype: got {dtype}; expected float32 or bfloat16")
    scale, shift = normalisation(mean, std)
    result: Tensor = _network_inputs(*crops, factors, order, scale, shift, size, interpolation == "bicubic", dtype)
    return result


def _check(
    data: Tensor,
    starts: Tensor,
    widths: Tensor,
    windows: Tensor,
    boxes: Tensor,
    flips: Tensor,
    factors: Tensor | None,
    order: Tensor | None,
    size: int,
    interpolation: str,
) -> None:
    """Raise a ValueError for arguments that do not fit."""
    num_images = len(starts)
    expected = [
        ("starts", starts, (num_images,), torch.int64),
        ("widths", widths, (num_images,), torch.int32),
        ("windows", windows, (num_images, 4), torch.int32),
        ("boxes", boxes, (num_images, 4), torch.float32),
        ("flips", flips, (num_images,), torch.bool),
    ]
    if (factors is None) != (order is None):
        raise ValueError("factors, order: got one without the other; expected both or neither")
    if factors is not None and order is not None:
        expected += [("factors", factors, (num_images, 3), torch.float32), ("order", order, (num_images,), torch.uint8)]
    for name, tensor, shape, dtype in expected:
        if tuple(tensor.shape) != shape or tensor.dtype is not dtype:
            raise ValueError(f"{name}: got {tensor.dtype} {list(tensor.shape)}; expected {dtype} {list(shape)}")
        check_device(name, tensor, "data", data)
    if data.dtype is not torch.uint8 or data.dim() != 1:
        raise ValueError(f"data: got {data.dtype} {list(data.shape)}; expected torch.uint8 [T]")
    if size < 1:
        raise ValueError(f"size: got {size}; expected at least 1 pixel")
    check_choice("interpolation", interpolation, INTERPOLATIONS)
