"""Squares cut out of images that lie one behind the other in memory: what a cache of decoded images hands over."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import _C
from . import backend
from .colours import color_jitter, normalisation


@torch.library.custom_op("fastlt::squares", mutates_args=())
def _squares(
    data: Tensor, starts: Tensor, widths: Tensor, windows: Tensor, boxes: Tensor, flips: Tensor, size: int, cubic: bool
) -> Tensor:
    """Return uint8 [B, S, S, 3], to Pillow's bits: the C++ resampler on the parts of the images."""
    out = np.empty((len(starts), size, size, 3), np.uint8)
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
        out=out,
        num_threads=torch.get_num_threads(),
    )
    return torch.from_numpy(out)


@_squares.register_fake
def _(data, starts, widths, windows, boxes, flips, size, cubic):  # type: ignore[no-untyped-def]
    return data.new_empty((starts.shape[0], size, size, 3))


if backend.HAS_TRITON:

    @_squares.register_kernel("cuda")
    def _(*args):  # type: ignore[no-untyped-def]
        return backend.image_kernels().squares(*args)


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
    """Crop, resize and mirror B images, antialiased as Pillow does: to its bits on a CPU, within 1 of 255 on a GPU.

    Args:
        data: uint8 [T], images of RGB rows without padding, one behind the other.
        starts: int64 [B], where each begins.
        widths: int32 [B], their widths in pixels.
        windows: int32 [B, 4], x, y, width, height: the part that exists for the filter.
        boxes: float32 [B, 4], left, top, right, bottom in the window: what is resampled.
        flips: bool [B], whether the result is mirrored left to right.
        size: S, the side of the squares.
        interpolation: bilinear or bicubic.

    Returns:
        uint8 [B, S, S, 3].

    Raises:
        ValueError: A shape or type does not fit.
    """
    check(data, starts, widths, windows, boxes, flips, None, None, size, interpolation)
    result: Tensor = _squares(data, starts, widths, windows, boxes, flips, size, interpolation == "bicubic")
    return result


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
    """Return the squares, jittered and normalised, [B, S, S, 3] in `dtype`: in three passes."""
    x: Tensor = _squares(data, starts, widths, windows, boxes, flips, size, cubic).float()
    if factors is not None and order is not None:
        x = color_jitter(x, factors, order)
    return (x * x.new_tensor(scale) + x.new_tensor(shift)).to(dtype)


@_network_inputs.register_fake
def _(data, starts, widths, windows, boxes, flips, factors, order, scale, shift, size, cubic, dtype):  # type: ignore[no-untyped-def]
    return data.new_empty((starts.shape[0], size, size, 3), dtype=dtype)


if backend.HAS_TRITON:

    @_network_inputs.register_kernel("cuda")
    def _(*args):  # type: ignore[no-untyped-def]
        return backend.image_kernels().network_inputs(*args)


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
    """Crop, resize, mirror, jitter and normalise B images: on a GPU in one kernel, as `squares` and a step do in two.

    Args:
        data: As in `squares`, and so are starts, widths, windows, boxes, flips, size and interpolation.
        starts: int64 [B].
        widths: int32 [B].
        windows: int32 [B, 4].
        boxes: float32 [B, 4].
        flips: bool [B].
        factors: Of brightness, contrast and saturation, float32 [B, 3]; None leaves colours alone.
        order: Order of the three, uint8 [B]; see `ops.colours.color_jitter`.
        mean: Of red, green and blue, in units of the full range.
        std: As `mean`.
        size: S.
        interpolation: bilinear or bicubic.
        dtype: Of the result: float32 or bfloat16.

    Returns:
        [B, S, S, 3]; permuted to [B, 3, S, S] in channels_last memory.

    Raises:
        ValueError: A shape or type does not fit.
    """
    check(data, starts, widths, windows, boxes, flips, factors, order, size, interpolation)
    if len(mean) != 3 or len(std) != 3 or dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(
            f"mean and std must be three numbers each, dtype float32 or bfloat16; got {mean}, {std}, {dtype}"
        )
    scale, shift = normalisation(mean, std)
    crops = (data, starts, widths, windows, boxes, flips)
    result: Tensor = _network_inputs(*crops, factors, order, scale, shift, size, interpolation == "bicubic", dtype)
    return result


def check(
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
    known = [
        ("starts", starts, (num_images,), torch.int64),
        ("widths", widths, (num_images,), torch.int32),
        ("windows", windows, (num_images, 4), torch.int32),
        ("boxes", boxes, (num_images, 4), torch.float32),
        ("flips", flips, (num_images,), torch.bool),
    ]
    if (factors is None) != (order is None):
        raise ValueError("factors and order: got one without the other; give both or neither")
    if factors is not None and order is not None:
        known += [("factors", factors, (num_images, 3), torch.float32), ("order", order, (num_images,), torch.uint8)]
    for name, tensor, shape, dtype in known:
        if tuple(tensor.shape) != shape or tensor.dtype is not dtype:
            raise ValueError(f"{name} must be {dtype} {list(shape)}; got {tensor.dtype} {list(tensor.shape)}")
        if tensor.device != data.device:
            raise ValueError(f"{name} is on {tensor.device}, data on {data.device}: move both to one device")
    if data.dtype is not torch.uint8 or data.dim() != 1:
        raise ValueError(f"data must be torch.uint8 [T]; got {data.dtype} {list(data.shape)}")
    if size < 1 or interpolation not in ("bilinear", "bicubic"):
        raise ValueError(
            f"size must be at least 1 and interpolation bilinear or bicubic; got {size} and {interpolation}"
        )
