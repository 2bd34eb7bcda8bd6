"""Crops of RGB images to squares: an antialiased filter over the part of each image that its box covers.

Legend: B images, one behind the other in one array of bytes; S the side of a square; P = S * S pixels of a square.
"""

import triton
import triton.language as tl


@triton.jit
def filter_weight(distance, CUBIC: tl.constexpr):
    """The triangle, or Keys' cubic with a = -1/2, at a distance from the middle."""
    d = tl.abs(distance)
    if CUBIC:
        near = (1.5 * d - 2.5) * d * d + 1.0
        far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
        return tl.where(d < 1.0, near, tl.where(d < 2.0, far, 0.0))
    return tl.maximum(1.0 - d, 0.0)


@triton.jit
def byte(value):
    """The nearest whole number in 0 .. 255, as a float."""
    return tl.floor(tl.minimum(tl.maximum(value + 0.5, 0.0), 255.0))


@triton.jit
def square_kernel(
    data_ptr,
    start_ptr,
    width_ptr,
    window_ptr,
    box_ptr,
    flip_ptr,
    out_ptr,
    S,
    CUBIC: tl.constexpr,
    BP: tl.constexpr,
):
    """Stores BP pixels of one square, uint8 [B, S, S, 3]: weighted means over the window, weights cut off at its edges.

    start [B] is where an image's bytes begin and width [B] its width; window [B, 4] is x, y, width, height in it, box
    [B, 4] left, top, right, bottom in the window, flip [B] whether the square is mirrored.
    """
    image = tl.program_id(0)
    pixels = tl.program_id(1) * BP + tl.arange(0, BP)
    row, column = pixels // S, pixels % S
    mirrored = tl.load(flip_ptr + image) != 0
    column = tl.where(mirrored, S - 1 - column, column)
    x0, y0 = tl.load(window_ptr + 4 * image), tl.load(window_ptr + 4 * image + 1)
    width, height = tl.load(window_ptr + 4 * image + 2), tl.load(window_ptr + 4 * image + 3)
    left, top = tl.load(box_ptr + 4 * image), tl.load(box_ptr + 4 * image + 1)
    x_step = (tl.load(box_ptr + 4 * image + 2) - left) / S
    y_step = (tl.load(box_ptr + 4 * image + 3) - top) / S
    # A filter that shrinks is stretched to the step, so that it averages
    x_stretch, y_stretch = tl.maximum(x_step, 1.0), tl.maximum(y_step, 1.0)
    radius = 2.0 if CUBIC else 1.0
    x_middle, y_middle = left + (column + 0.5) * x_step, top + (row + 0.5) * y_step
    x_first = tl.maximum((x_middle - radius * x_stretch + 0.5).to(tl.int32), 0)
    y_first = tl.maximum((y_middle - radius * y_stretch + 0.5).to(tl.int32), 0)
    x_taps, y_taps = (2 * radius * x_stretch).to(tl.int32) + 2, (2 * radius * y_stretch).to(tl.int32) + 2
    base = tl.load(start_ptr + image)
    pitch = tl.load(width_ptr + image)
    red = tl.zeros((BP,), tl.float32)
    green = tl.zeros((BP,), tl.float32)
    blue = tl.zeros((BP,), tl.float32)
    y_total = tl.zeros((BP,), tl.float32)
    for j in range(0, y_taps):
        y = y_first + j
        y_weight = tl.where(y < height, filter_weight((y + 0.5 - y_middle) / y_stretch, CUBIC), 0.0)
        line = base + (y0 + tl.minimum(y, height - 1)).to(tl.int64) * pitch * 3
        row_red = tl.zeros((BP,), tl.float32)
        row_green = tl.zeros((BP,), tl.float32)
        row_blue = tl.zeros((BP,), tl.float32)
        x_total = tl.zeros((BP,), tl.float32)
        for i in range(0, x_taps):
            x = x_first + i
            x_weight = tl.where(x < width, filter_weight((x + 0.5 - x_middle) / x_stretch, CUBIC), 0.0)
            place = data_ptr + line + (x0 + tl.minimum(x, width - 1)) * 3
            row_red += x_weight * tl.load(place).to(tl.float32)
            row_green += x_weight * tl.load(place + 1).to(tl.float32)
            row_blue += x_weight * tl.load(place + 2).to(tl.float32)
            x_total += x_weight
        # Rounded to 8 bits between the passes, as Pillow does: a cubic's overshoot is cut off there, too
        red += y_weight * byte(row_red / x_total)
        green += y_weight * byte(row_green / x_total)
        blue += y_weight * byte(row_blue / x_total)
        y_total += y_weight
    out = out_ptr + (image.to(tl.int64) * S * S + pixels) * 3
    inside = pixels < S * S
    tl.store(out, byte(red / y_total).to(tl.uint8), mask=inside)
    tl.store(out + 1, byte(green / y_total).to(tl.uint8), mask=inside)
    tl.store(out + 2, byte(blue / y_total).to(tl.uint8), mask=inside)
