"""How images are cut and changed before the network sees them: at random in training, centrally in evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ... import _C
from ...config import INTERPOLATIONS, TrainConfig, check_choice


class Draws(NamedTuple):
    """The random numbers of B consecutive slots.

    Attributes:
        windows: int32 [B, 4], x, y, width and height of the crop in source pixels.
        flips: bool [B], whether to mirror the image.
        jitter: float32 [B, 3], factors of brightness, contrast and saturation.
        order: uint8 [B], 0 to 5: the order in which the three are applied, as `itertools.permutations` numbers it.
    """

    windows: np.ndarray
    flips: np.ndarray
    jitter: np.ndarray
    order: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crop, flip and colour jitter, each a pure function of the seed, the global slot and the image's size.

    Crops are drawn as by torchvision's `RandomResizedCrop`: an area uniformly and an aspect ratio log-uniformly, up to
    ten times, until both sides, rounded, fit the image; then the place uniformly. If none fits, the crop is the largest
    central one of a permitted ratio. Jitter factors are uniform in [max(0, 1 - jitter), 1 + jitter], and their order is
    uniform, as in torchvision's `ColorJitter`.

    Attributes:
        size: Side of the square that crops are resized to, pixels.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width / height.
        flip: Probability that an image is mirrored.
        jitter: Strength of the colour jitter; 0 makes every factor 1.
        interpolation: bilinear or bicubic, antialiased.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.4
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Raise a ValueError for settings that cannot work."""
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        if self.size < 1:
            raise ValueError(f"size: got {self.size}; expected at least 1 pixel")
        for name, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            if not (0 < low <= high <= most and math.isfinite(high)):
                bound = f" <= {most:g}" if most < math.inf else ""
                raise ValueError(f"{name}: got {low} and {high}; expected 0 < low <= high{bound}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip: got {self.flip}; expected a probability, 0 to 1")
        if not (self.jitter >= 0 and math.isfinite(self.jitter)):
            raise ValueError(f"jitter: got {self.jitter}; expected a finite number, at least 0")

    def draw(self, first_slot: int, sizes: np.ndarray, *, seed: int) -> Draws:
        """Draw the random numbers of consecutive slots.

        Args:
            first_slot: Global number of the first slot, `LongTailSampler.first_slot(step)`.
            sizes: int32 [B, 2], width and height of the image in each slot, pixels.
            seed: The sampler's seed.

        Returns:
            The draws, arrays of B rows.

        Raises:
            ValueError: An image has no pixels, or sizes has another shape.
        """
        sizes = np.ascontiguousarray(sizes, dtype=np.int32)
        return Draws(
            *_C.draw_augmentations(
                seed=seed,
                first_slot=first_slot,
                sizes=sizes,
                scale=self.scale,
                ratio=self.ratio,
                flip=self.flip,
                jitter=self.jitter,
            )
        )


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """Resize the short side, then cut out the central square.

    Attributes:
        size: Side of the square, pixels.
        resize: Length of the short side before the cut, pixels.
        interpolation: bilinear or bicubic, antialiased.
    """

    size: int
    resize: int
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Raise a ValueError for a crop larger than the resized image, and for an unknown filter."""
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        if not 1 <= self.size <= self.resize:
            raise ValueError(f"size: got {self.size}; expected 1 to resize ({self.resize}) pixels")

    def boxes(self, sizes: np.ndarray) -> np.ndarray:
        """Return the part of each image that becomes the square.

        It is exactly the part that torchvision's `Resize(resize)` and `CenterCrop(size)` show: the long side becomes
        `int(resize * long / short)`, and an offset is `int(round((side - size) / 2))`.

        Args:
            sizes: int32 [N, 2], width and height of the images, pixels.

        Returns:
            float64 [N, 4], left, top, right and bottom in source pixels.

        Raises:
            ValueError: An image has no pixels, or sizes has another shape.
        """
        source = np.asarray(sizes, dtype=np.int64)
        if source.ndim != 2 or source.shape[1] != 2 or (source < 1).any():
            raise ValueError(f"sizes: got shape {list(source.shape)}; expected [N, 2], all at least 1")
        short = source.min(axis=1, keepdims=True)
        resized = (self.resize * source / short).astype(np.int64)
        start = np.round((resized - self.size) / 2.0)
        scale = source / resized
        return np.concatenate([start * scale, (start + self.size) * scale], axis=1)


def augmentation(config: TrainConfig) -> Augmentation:
    """Return stage 1's augmentation."""
    return Augmentation(
        size=config.image_size,
        scale=config.crop_scale,
        ratio=config.crop_ratio,
        flip=config.flip,
        jitter=config.color_jitter,
        interpolation=config.interpolation,
    )


def eval_transform(config: TrainConfig) -> EvalTransform:
    """Return how images are cut for evaluation."""
    return EvalTransform(size=config.image_size, resize=config.resize, interpolation=config.interpolation)
