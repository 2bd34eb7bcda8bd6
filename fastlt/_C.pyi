"""The C++ core (csrc/): sampling order, augmentation draws and image resampling."""

import numpy as np

def resample_batch(
    images: list[np.ndarray],
    *,
    windows: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    flips: np.ndarray | None = None,
    out: np.ndarray,
    num_threads: int = 1,
) -> None:
    """Resample parts of RGB images to squares, as Pillow's bilinear resize does: antialiased, in two rounded passes.

    The horizontal pass comes first, so the result is exactly Pillow's `crop(window).resize(size, box=box)` where that
    too does so; newer versions of Pillow begin with the vertical pass on tall images, where some pixels then round to
    the neighbouring value.

    Args:
        images: B arrays, uint8 [height, width, 3].
        windows: int32 [B, 4], x, y, width, height: the part of the image that exists for the filter; default all.
        boxes: float64 [B, 4], left, top, right, bottom in the window: what is resampled; default all of it. The filter
            reaches over the box's edges, not over the window's.
        flips: bool [B], whether to mirror the result left to right; default none.
        out: uint8 [B, S, S, 3], receives the squares.
        num_threads: At most so many threads share the images.

    Raises:
        ValueError: An image is no such array, a shape does not fit, or a window or box leaves what contains it.
        TypeError: An array is not contiguous or of another type.
    """
