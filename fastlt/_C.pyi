"""The C++ core (csrc/): sampling order, augmentation draws, image resampling and the tau curve."""

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

def interval_bounds(
    logits: np.ndarray,
    labels: np.ndarray,
    slope: np.ndarray,
    *,
    log: bool,
    low: np.ndarray,
    high: np.ndarray,
    num_threads: int = 1,
) -> None:
    """The open interval of taus at which each row's label has the first largest score.

    Scores are straight lines in tau: log2|z_j| - tau slope_j, with the sign of z_j, if `log`; else z_j - tau slope_j.

    Args:
        logits: float32 [R, C].
        labels: int64 [R] in 0..C-1.
        slope: float32 [C].
        log: Which lines.
        low: float32 [R], receives the lower ends; inf where the label never wins.
        high: float32 [R], receives the upper ends; -inf where the label never wins.
        num_threads: At most so many threads share the rows.

    Raises:
        ValueError: A shape does not fit or a label is out of range.
        TypeError: An array is not contiguous or of another type.
    """
