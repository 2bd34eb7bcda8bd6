"""The settings with which somebody else's checkpoint is taken in."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from .base import INTERPOLATIONS, Config, check_choice, check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdoptConfig(Config):
    """How a checkpoint is read: its network, its data, its preprocessing, its order of classes."""

    data_root: Path | None = None
    """CHECKPOINT only: folder with the images (train/<class>/*, val/<class>/*, optional test/), or with list files."""
    lists: Path | None = None
    """CHECKPOINT only: folder with the list files, if not in DATA-ROOT."""
    backbone: str | None = None
    """CHECKPOINT only: the network, as for `fastlt train`; by default what the checkpoint's config.json says, or the
    ResNet whose tensors have these shapes."""
    head: str | None = None
    """CHECKPOINT only: name of its last linear layer, for example fc; by default the only matrix that is not part of
    the backbone."""
    classes: Path | None = None
    """CHECKPOINT only: a file with the checkpoint's class names in its own order, one a line; by default what its
    config.json says, or the data's order (class folders sorted by name)."""
    image_size: int | None = None
    """CHECKPOINT only: side of the network's input, pixels; by default its own configuration's, or 224."""
    eval_resize: int | None = None
    """CHECKPOINT only: short side before the centre crop, pixels; by default its own configuration's, or image size x
    256 / 224."""
    mean: tuple[float, float, float] | None = None
    """CHECKPOINT only: mean of each channel, in units of the full range; by default its configuration's or
    ImageNet's."""
    std: tuple[float, float, float] | None = None
    """CHECKPOINT only: standard deviation of each channel; by default its configuration's or ImageNet's."""
    interpolation: str | None = None
    """CHECKPOINT only: how its images were resized, antialiased: bilinear or bicubic; by default what its configuration
    says, or bilinear."""
    out: Path | None = None
    """CHECKPOINT only: where the rebalanced checkpoint goes; by default <stem>.<method><suffix> beside the input."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_choice("--interpolation", self.interpolation or INTERPOLATIONS[0], INTERPOLATIONS)
        for flag, whole in (("--image-size", self.image_size), ("--eval-resize", self.eval_resize)):
            check_range(flag, 1 if whole is None else whole, low=1)
        if self.mean is not None and not all(math.isfinite(value) for value in self.mean):
            raise ValueError(f"--mean: got {self.mean}; expected three finite numbers")
        if self.std is not None and not all(math.isfinite(value) and value > 0 for value in self.std):
            raise ValueError(f"--std: got {self.std}; expected three positive numbers")

    def given(self) -> tuple[str, ...]:
        """Return the flags that were given."""
        return tuple(
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(AdoptConfig)
            if getattr(self, field.name) != field.default
        )
