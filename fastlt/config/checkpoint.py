"""The settings for reading somebody else's checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from .base import INTERPOLATIONS, Config, File, Folder, Interpolation, check_choice, check_full_range, check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Config):
    """How a checkpoint from elsewhere is read: its network, data, preprocessing and order of classes."""

    data_root: Folder | None = None
    """Folder with the images that the checkpoint was trained on, as for `fastlt train`, and val images that it was not
    (without any, folds of train choose); of a run whose data were moved or copied, where they are now."""
    lists: Folder | None = None
    """Folder with their list files, if not in --data-root."""
    backbone: Annotated[str, "NAME"] | None = None
    """The network, as for `fastlt train`; by default what the checkpoint's config.json says, or the ResNet whose
    tensors have these shapes."""
    head: Annotated[str, "NAME"] | None = None
    """Name of the checkpoint's last linear layer, for example fc; by default the only matrix that is not part of the
    backbone."""
    classes: Annotated[Path, "FILE|torchvision|timm"] | None = None
    """A file with the checkpoint's class names in its own order, one per line, or how its class folders were sorted:
    torchvision (by code point) or timm (numbers by value, without case); by default the names that it carries or, where
    it has none, whichever of the data's order and these fits the train images."""
    image_size: int | None = None
    """Side of the network's input, pixels; by default the one in its configuration, or 224."""
    eval_resize: int | None = None
    """Short side before the centre crop, pixels; by default such that the crop is the share of it that its
    configuration says (timm's crop_pct), or image size x 256 / 224."""
    mean: Annotated[tuple[float, float, float], "R G B"] | None = None
    """Mean of each channel, in units of the full range; by default the checkpoint's own or ImageNet's."""
    std: Annotated[tuple[float, float, float], "R G B"] | None = None
    """Standard deviation of each channel; by default the checkpoint's own or ImageNet's."""
    interpolation: Interpolation | None = None
    """How the checkpoint's training resized images, antialiased; by default what its configuration says, or
    bilinear."""
    out: File | None = None
    """Where the rebalanced checkpoint goes; by default <stem>.<method><suffix> beside the input."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_choice("--interpolation", self.interpolation or INTERPOLATIONS[0], INTERPOLATIONS)
        for flag, pixels in (("--image-size", self.image_size), ("--eval-resize", self.eval_resize)):
            check_range(flag, 1 if pixels is None else pixels, low=1)
        if self.mean is not None and not all(math.isfinite(value) for value in self.mean):
            raise ValueError(f"--mean: got {self.mean}; expected three finite numbers; give one a channel")
        if self.std is not None and not all(math.isfinite(value) and value > 0 for value in self.std):
            raise ValueError(f"--std: got {self.std}; expected three positive numbers; give one a channel")
        check_full_range("--mean", self.mean or (0,))
        check_full_range("--std", self.std or (1,))

    def given(self, *, ignored: Collection[str] = ()) -> tuple[str, ...]:
        """Return the flags that were given, without those of ignored fields."""
        return tuple(
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(CheckpointConfig)
            if getattr(self, field.name) != field.default and field.name not in ignored
        )
