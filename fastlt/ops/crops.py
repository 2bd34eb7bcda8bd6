"""Squares cut out of images that lie one behind the other in memory: what a cache of decoded images hands over."""

import numpy as np
import torch
from torch import Tensor

from fastlt import _C
from fastlt.ops import backend


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
    num_images = len(starts)
    for name, tensor, shape, dtype in (
        ("starts", starts, (num_images,), torch.int64),
        ("widths", widths, (num_images,), torch.int32),
        ("windows", windows, (num_images, 4), torch.int32),
        ("boxes", boxes, (num_images, 4), torch.float32),
        ("flips", flips, (num_images,), torch.bool),
    ):
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
    result: Tensor = _squares(data, starts, widths, windows, boxes, flips, size, interpolation == "bicubic")
    return result
