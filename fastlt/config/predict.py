"""The settings of predictions."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from .base import LOADERS, METHODS, NAME, Config, Device, Loader, check_choice, check_range, one_of
from .plugins import check_classifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Classify images without labels: the most probable classes of each."""

    method: Annotated[str, one_of(("joint", *METHODS, NAME))] = ""
    """joint (stage 1 as it is) or a rebalanced classifier of the run; by default the one that `fastlt rebalance` chose,
    else its only rebalanced one, or joint."""
    top: int = 5
    """Classes to name for each image, most probable first."""
    strict: bool = False
    """Stop at a file that cannot be read, or a picture of a kind that is not, before anything is written; by default it
    gets no prediction."""
    device: Device = "auto"
    """Device to compute on; auto takes a CUDA device if there is one."""
    loader: Loader = "auto"
    """Image loader."""
    num_threads: int | None = None
    """Loader threads or workers; by default the number of processors, at most 16."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_classifier("--method", self.method)
        check_range("--top", self.top, low=1)
        check_choice("--loader", self.loader, LOADERS)
        check_range("--num-threads", 1 if self.num_threads is None else self.num_threads, low=1)
