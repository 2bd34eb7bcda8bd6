"""Paint one character as one noisy image, reproducibly: every draw is keyed by (seed, stream, class, image)."""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageFont

FACES = tuple(
    f"DejaVu{name}.ttf"
    for family, slanted in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for name in (family, f"{family}-Bold", f"{family}-{slanted}", f"{family}-Bold{slanted}")
)
"""Font files, all among those that matplotlib ships."""

MARK_BITS = 8
"""Pieces of the bar that shows a mark."""

_UNIFORM_SUM_SD = math.sqrt(4 * (65536**2 - 1) / 12)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How images are painted; draws from a range are uniform.

    Attributes:
        size: Side of the square image in pixels.
        extent: Longer side of the character, as a share of the image.
        rotation: Largest rotation either way, in degrees.
        offset: Largest shift of the character's centre along an axis, as a share of the room left around it.
        ink: Range of each channel of the character's colour.
        ground: Range of each channel of the background's colour.
        noise: Standard deviation of the noise of each value, in levels of 255.
        quality: Quality of the JPEG file, on Pillow's scale.
    """

    size: int = 32
    extent: tuple[float, float] = (0.35, 0.8)
    rotation: float = 20.0
    offset: float = 1.0
    ink: tuple[int, int] = (0, 150)
    ground: tuple[int, int] = (105, 255)
    noise: float = 40.0
    quality: int = 90


@dataclass(frozen=True, kw_only=True)
class Style:
    """What the images of a class have in common.

    Attributes:
        character: What is painted.
        ink: Colour of the character (RGB); None draws one for each image.
        mark: Number under the character, shown as a bar of eight pieces, thick or thin by its bits; 0 draws no bar.
    """

    character: str
    ink: tuple[int, int, int] | None = None
    mark: int = 0


def paint(style: Style, look: Look, fonts: Path, *, seed: int, stream: int, label: int, number: int) -> bytes:
    """Paint an image of a class and return the bytes of its JPEG file.

    Args:
        style: What the class looks like.
        look: What varies inside a class.
        fonts: The folder of `FACES`.
        seed: Key of all draws.
        stream: The split, so that no two splits share an image.
        label: The class.
        number: Number of the image within its class and split.
    """
    from PIL import Image

    bits = np.random.Philox(key=seed, counter=[0, number, label, stream])
    # Raw integers and plain float32 arithmetic give the same image with every numpy, libm and processor
    draws = (bits.random_raw(16) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    size = look.size
    mask = _mask(style.character, style.mark, FACES[int(draws[0] * len(FACES))], str(fonts), _source_side(size))
    coverage = _place(mask, look, draws[1:5].tolist())
    channels = draws[5:11].reshape(2, 3)
    ground = np.floor(look.ground[0] + channels[0] * (look.ground[1] - look.ground[0] + 1)).astype(np.float32)
    ink = np.floor(look.ink[0] + channels[1] * (look.ink[1] - look.ink[0] + 1)).astype(np.float32)
    if style.ink is not None:
        ink = np.array(style.ink, np.float32)
    pixels = ground + (ink - ground) * (coverage[:, :, None] / np.float32(255))
    if look.noise > 0:
        pixels += _noise(bits, pixels.size, look.noise).reshape(pixels.shape)
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=look.quality)
    return file.getvalue()


def _noise(bits: np.random.Philox, count: int, sd: float) -> np.ndarray:
    """Return sums of four uniform integers, which are nearly normal draws: float32 [count]."""
    parts = bits.random_raw(count).astype("<u8").view("<u2").reshape(count, 4)
    total: np.ndarray = parts[:, 0].astype(np.float32) + parts[:, 1] + parts[:, 2] + parts[:, 3]
    return np.asarray((total - np.float32(2 * 65535)) * np.float32(sd / _UNIFORM_SUM_SD))


def _source_side(size: int) -> int:
    """Return the longer side of a character's mask: about as large as in an image, twice that for small images."""
    return max(16, round(1.4 * size if size <= 64 else 0.8 * size))


def _place(mask: Image.Image, look: Look, draws: list[float]) -> np.ndarray:
    """Scale, turn and shift a mask, to float32 [size, size], 0 to 255."""
    from PIL import Image

    over = 2 if look.size <= 64 else 1
    side = look.size * over
    extent = side * (look.extent[0] + draws[0] * (look.extent[1] - look.extent[0]))
    zoom = max(mask.size) / extent
    angle = math.radians(look.rotation * (2 * draws[1] - 1))
    # Rounded, so that the last bit of the machine's sine makes no difference
    cos, sin = round(math.cos(angle) * zoom, 6), round(math.sin(angle) * zoom, 6)
    half_w = (abs(cos) * mask.width + abs(sin) * mask.height) / (2 * zoom * zoom)
    half_h = (abs(sin) * mask.width + abs(cos) * mask.height) / (2 * zoom * zoom)
    x = side / 2 + look.offset * (2 * draws[2] - 1) * max(0.0, side / 2 - half_w)
    y = side / 2 + look.offset * (2 * draws[3] - 1) * max(0.0, side / 2 - half_h)
    x, y = round(x, 3), round(y, 3)
    matrix = (cos, sin, mask.width / 2 - cos * x - sin * y, -sin, cos, mask.height / 2 + sin * x - cos * y)
    placed = mask.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(placed.reduce(over) if over > 1 else placed, np.float32)


@functools.lru_cache(maxsize=4096)
def _mask(character: str, mark: int, face: str, fonts: str, side: int) -> Image.Image:
    """Render a character, cropped and scaled so that its longer side is `side` pixels, with an empty edge."""
    from PIL import Image, ImageDraw

    font = _font(face, fonts, 2 * side)
    canvas = Image.new("L", (8 * side, 8 * side))
    ImageDraw.Draw(canvas).text((2 * side, 2 * side), character, font=font, fill=255)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"{face}: got no shape for {character!r}")
    glyph = canvas.crop(box)
    scale = side / max(glyph.size)
    width, height = max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))
    bar = max(3, side // 4) if mark else 0
    edged = Image.new("L", (max(width, side if mark else 0) + 2, height + bar + 2))
    edged.paste(glyph.resize((width, height), Image.Resampling.BOX), (1 + (edged.width - 2 - width) // 2, 1))
    if mark:
        draw = ImageDraw.Draw(edged)
        for bit in range(MARK_BITS):
            thickness = bar - 2 if mark >> bit & 1 else max(1, bar // 5)
            left, right = 1 + side * bit // MARK_BITS, side * (bit + 1) // MARK_BITS
            draw.rectangle((left, height + 1 + bar - thickness, right, height + bar), fill=255)
    return edged


@functools.cache
def _font(face: str, fonts: str, pixels: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    # The basic layout: Raqm, where it is installed, would place glyphs differently
    return ImageFont.truetype(str(Path(fonts) / face), pixels, layout_engine=ImageFont.Layout.BASIC)
