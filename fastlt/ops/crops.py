"""Squares cut out of decoded images that lie one after another in memory: the batches of a cache."""

import numpy as np
import torch
from torch import Tensor

from .. import _C
from ..config import INTERPOLATIONS, check_choice
from . import backend
from .checks import check_exact

# Shapes: B images, T bytes of all images, S the side of a square.


@torch.library.custom_op("fastlt::squares", mutates_args=())
def _squares(
    data: Tensor,
    starts: Tensor,
    widths: Tensor,
    windows: Tensor,
    boxes: Tensor,
    flips: Tensor,
    size: int,
    cubic: bool,
) -> Tensor:
    """Return the squares, uint8 [B, S, S, 3]. A GPU without kernels hands over the rows of one image after another."""
    out = np.empty((len(starts), size, size, 3), np.uint8)
    parts = []
    for start, width, (x, y, across, down) in zip(starts.tolist(), widths.tolist(), windows.tolist(), strict=True):
        rows = data[start + 3 * width * y : start + 3 * width * (y + down)].cpu().numpy().reshape(down, width, 3)
        parts.append(np.ascontiguousarray(rows[:, x : x + across]))
    _C.resample_batch(
        parts,
        boxes=boxes.double().cpu().numpy(),
        flips=flips.cpu().numpy(),
        interpolation="bicubic" if cubic else "bilinear",
        out=out,
        num_threads=torch.get_num_threads(),
    )
    return torch.from_numpy(out).to(data.device)


@_squares.register_fake
def _(data, starts, widths, windows, boxes, flips, size, cubic):  # type: ignore[no-untyped-def]
    return data.new_empty((starts.shape[0], size, size, 3))


backend.register_kernel(_squares, "crops", "squares")


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
    num_images = len(starts)
    for name, tensor, shape, dtype in (
        ("starts", starts, (num_images,), torch.int64),
        ("widths", widths, (num_images,), torch.int32),
        ("windows", windows, (num_images, 4), torch.int32),
        ("boxes", boxes, (num_images, 4), torch.float32),
        ("flips", flips, (num_images,), torch.bool),
    ):
        check_exact(name, tensor, shape, dtype, "data", data)
    if data.dtype is not torch.uint8 or data.dim() != 1:
        raise ValueError(f"data: got {data.dtype} {list(data.shape)}; expected torch.uint8 [T]")
    if size < 1:
        raise ValueError(f"size: got {size}; expected at least 1 pixel")
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    result: Tensor = _squares(data, starts, widths, windows, boxes, flips, size, interpolation == "bicubic")
    return result
