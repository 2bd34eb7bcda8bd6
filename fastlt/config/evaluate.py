"""The settings of an evaluation."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from .base import LOADERS, METHODS, NAME, Config, Device, Loader, Target, check_choice, check_range, one_of
from .plugins import check_classifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Accuracy of a run's classifier: many, medium, few and all, with 95 % intervals."""

    method: Annotated[str, one_of(("joint", *METHODS, NAME, "all"))] = ""
    """joint (stage 1 as it is), a rebalanced classifier of the run, also by your own method's name, or all of them; by
    default the one that `fastlt rebalance` chose, else joint."""
    against: Annotated[str, one_of(("joint", *METHODS, NAME))] = ""
    """The classifier that the others are compared with, image by image; by default joint."""
    target: Target = ""
    """Class frequencies where the network will be used, to adjust to and to report under: uniform, train, FILE.csv
    (class,frequency), or estimate:DIR from unlabelled images (with several classifiers, by the first one)."""
    split: Literal["val", "test", "all"] = "all"
    """The split to report, or all of them."""
    device: Device = "auto"
    """Device to compute on; auto takes a CUDA device if there is one."""
    loader: Loader = "auto"
    """Image loader for features not computed yet."""
    num_threads: int | None = None
    """Loader threads or workers; by default the number of processors, at most 16."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_classifier("--method", self.method)
        check_classifier("--against", self.against)
        if self.against and self.against == self.method:
            raise ValueError(f"--against: got {self.against}; expected another classifier than --method; choose one")
        check_choice("--split", self.split, ("val", "test", "all"))
        check_choice("--loader", self.loader, LOADERS)
        check_range("--num-threads", 1 if self.num_threads is None else self.num_threads, low=1)
