"""The settings of an export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from .base import METHODS, NAME, Config, check_choice, one_of
from .plugins import check_classifier

FORMATS = ("torchvision", "safetensors", "onnx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Write a run's network, with one of its classifiers folded in, as a file for other programs."""

    method: Annotated[str, one_of(("joint", *METHODS, NAME))] = ""
    """joint (stage 1 as it is) or a rebalanced classifier of the run; by default the one that `fastlt rebalance` chose,
    else its only rebalanced one, or joint."""
    format: Annotated[str, one_of(FORMATS)] = "torchvision"
    """torchvision: a .pth state dict with torchvision's names (timm's for timm:NAME); safetensors: a folder with
    config.json and model.safetensors, as timm reads them; onnx: a graph from normalised images to logits."""
    out: Annotated[Path, "FILE|DIR"] | None = None
    """File or folder to write; by default RUN/export/<method>.pth, <method>/ or <method>.onnx."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_classifier("--method", self.method)
        check_choice("--format", self.format, FORMATS)
