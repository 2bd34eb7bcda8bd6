"""Crops of RGB images to squares, by an antialiased filter over the part of each that its box covers; colour jitter.

Legend: B images; S the side of a square; BP the pixels that a program computes at a time.
"""

import triton
import triton.language as tl


@triton.jit
def filter_weight(distance, CUBIC: tl.constexpr):
    """Return the triangle, or Keys' cubic with a = -1/2, at a distance from the middle."""
    d = tl.abs(distance)
    if CUBIC:
        near = (1.5 * d - 2.5) * d * d + 1.0
        far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
        return tl.where(d < 1.0, near, tl.where(d < 2.0, far, 0.0))
    return tl.maximum(1.0 - d, 0.0)


@triton.jit
def byte(value):
    """Return the nearest whole number in 0..255, as a float."""
    return tl.floor(tl.minimum(tl.maximum(value + 0.5, 0.0), 255.0))


@triton.jit
def resampled(
    data_ptr,
    start_ptr,
    width_ptr,
    window_ptr,
    box_ptr,
    flip_ptr,
    image,
    pixels,
    S,
    CUBIC: tl.constexpr,
    BP: tl.constexpr,
):
    """Return red, green and blue of BP pixels of a square, whole numbers in 0..255 as floats.

    Each is a weighted mean over the window, with the filter cut off at its edges. start [B] is where an image's bytes
    begin and width [B] its width; window [B, 4] is x, y, width, height in the image, box [B, 4] left, top, right,
    bottom in the window, flip [B] whether the square is mirrored.
    """
    pixels = tl.minimum(pixels, S * S - 1)  # pixels beyond the square are not stored
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
        # Rounded to 8 bits between the passes, as in Pillow, which cuts off a cubic's overshoot there, too
        red += y_weight * byte(row_red / x_total)
        green += y_weight * byte(row_green / x_total)
        blue += y_weight * byte(row_blue / x_total)
        y_total += y_weight
    return byte(red / y_total), byte(green / y_total), byte(blue / y_total)


@triton.jit
def store_pixels(place, red, green, blue, inside):
    """Store pixels' three channels from `place` on, in its type."""
    tl.store(place, red.to(place.dtype.element_ty), mask=inside)
    tl.store(place + 1, green.to(place.dtype.element_ty), mask=inside)
    tl.store(place + 2, blue.to(place.dtype.element_ty), mask=inside)


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
    """Store a share of a square, uint8 [B, S, S, 3]."""
    image = tl.program_id(0)
    first = image.to(tl.int64) * S * S * 3
    for begin in range(tl.program_id(1) * BP, S * S, tl.num_programs(1) * BP):
        pixels = begin + tl.arange(0, BP)
        red, green, blue = resampled(
            data_ptr, start_ptr, width_ptr, window_ptr, box_ptr, flip_ptr, image, pixels, S, CUBIC, BP
        )
        store_pixels(out_ptr + first + pixels * 3, red, green, blue, pixels < S * S)


@triton.jit
def load_pixels(place, inside):
    """Return pixels' red, green and blue, uint8 from `place` on, as floats."""
    red = tl.load(place, mask=inside, other=0).to(tl.float32)
    green = tl.load(place + 1, mask=inside, other=0).to(tl.float32)
    blue = tl.load(place + 2, mask=inside, other=0).to(tl.float32)
    return red, green, blue


@triton.jit
def grey_of(red, green, blue):
    """Return the luma, ITU-R 601."""
    return 0.299 * red + 0.587 * green + 0.114 * blue


@triton.jit
def blend(value, other, factor):
    """Move away from `other` by a factor, within 0..255."""
    return tl.minimum(tl.maximum(other + factor * (value - other), 0.0), 255.0)


@triton.jit
def operation(order, PLACE: tl.constexpr):
    """Return which operation comes first, second or third: 0 brightness, 1 contrast, 2 saturation (`ops.colours`)."""
    first = order // 2
    lower = tl.where(first == 0, 1, 0)
    upper = tl.where(first == 2, 1, 2)
    second = tl.where(order % 2 == 0, lower, upper)
    if PLACE == 0:
        return first
    if PLACE == 1:
        return second
    return 3 - first - second


@triton.jit
def jittered(red, green, blue, factor_ptr, order, mean, UNTIL_CONTRAST: tl.constexpr):
    """Jitter colours; with UNTIL_CONTRAST only as far as the operation that needs the image's mean grey."""
    ended = False
    for place in tl.static_range(3):
        chosen = operation(order, place)
        factor = tl.load(factor_ptr + chosen)
        if UNTIL_CONTRAST:
            ended = ended | (chosen == 1)
            factor = tl.where(ended, 1.0, factor)
        grey = grey_of(red, green, blue)
        other = tl.where(chosen == 0, 0.0, tl.where(chosen == 1, mean, grey))
        red, green, blue = blend(red, other, factor), blend(green, other, factor), blend(blue, other, factor)
    return red, green, blue


@triton.jit
def grey_kernel(image_ptr, factor_ptr, order_ptr, sum_ptr, PIXELS, PARTS: tl.constexpr, BP: tl.constexpr):
    """Store [B, PARTS] sums over an image's pixels of the grey from which its contrast moves away.

    image is uint8 [B, PIXELS, 3]; factor [B, 3] and order [B] belong to the jitter.
    """
    image, part = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS
    first = image_ptr + image.to(tl.int64) * PIXELS * 3
    order = tl.load(order_ptr + image).to(tl.int32)
    total = tl.zeros((BP,), tl.float32)
    for begin in range(part * BP, PIXELS, PARTS * BP):
        pixels = begin + tl.arange(0, BP)
        inside = pixels < PIXELS
        red, green, blue = load_pixels(first + pixels * 3, inside)
        red, green, blue = jittered(red, green, blue, factor_ptr + 3 * image, order, 0.0, True)
        total += tl.where(inside, grey_of(red, green, blue), 0.0)
    tl.store(sum_ptr + tl.program_id(0), tl.sum(total))


@triton.jit
def jitter_kernel(
    image_ptr,
    factor_ptr,
    order_ptr,
    sum_ptr,
    out_ptr,
    red_scale,
    green_scale,
    blue_scale,
    red_shift,
    green_shift,
    blue_shift,
    PIXELS,
    SHARES,
    PARTS: tl.constexpr,
    BP: tl.constexpr,
):
    """Store one of an image's SHARES of pixels, jittered, then scaled and shifted channel by channel."""
    image, share = tl.program_id(0) // SHARES, tl.program_id(0) % SHARES
    mean = tl.sum(tl.load(sum_ptr + image * PARTS + tl.arange(0, PARTS))) / PIXELS
    order = tl.load(order_ptr + image).to(tl.int32)
    pixels = share * BP + tl.arange(0, BP)
    inside = pixels < PIXELS
    place = image.to(tl.int64) * PIXELS * 3 + pixels * 3
    red, green, blue = load_pixels(image_ptr + place, inside)
    red, green, blue = jittered(red, green, blue, factor_ptr + 3 * image, order, mean, False)
    red, green, blue = red * red_scale + red_shift, green * green_scale + green_shift, blue * blue_scale + blue_shift
    store_pixels(out_ptr + place, red, green, blue, inside)
