"""The paper's settings of stage 2, by data set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .sources import AUTHOR, CODE, OURS

PAPERS = ("imagenet_lt", "inat2018", "places_lt")
LR_PER_IMAGE = 0.2 / 512
"""The learning rate is proportional to the batch size, as in stage 1."""


@dataclass(frozen=True, kw_only=True)
class Stage2:
    """The paper's settings for training classifiers on frozen features, and their source.

    Attributes:
        crt_epochs: Epochs of a retrained classifier.
        lws_epochs: Epochs of learned weight scaling.
        batch_size: Images per step, as in stage 1.
        weight_decay: Weight decay of everything that is trained, scales too, as in stage 1.
        source: One of `fastlt.recipes.sources`.
    """

    crt_epochs: int
    lws_epochs: int
    batch_size: int
    weight_decay: float
    source: str

    @property
    def lr(self) -> float:
        """The base learning rate for this batch size."""
        return LR_PER_IMAGE * self.batch_size


_IMAGENET = Stage2(crt_epochs=10, lws_epochs=5, batch_size=512, weight_decay=5e-4, source=CODE)
_STAGE2 = {
    "imagenet_lt": _IMAGENET,
    "inat2018": Stage2(crt_epochs=30, lws_epochs=5, batch_size=512, weight_decay=1e-4, source=CODE),
    "places_lt": Stage2(crt_epochs=10, lws_epochs=5, batch_size=256, weight_decay=5e-4, source=AUTHOR),
}


def stage2(dataset: str, *, batch_size: int = 512) -> Stage2:
    """Return the paper's stage-2 settings for a data set; other sets get ImageNet-LT's, with their own batch size.

    Args:
        dataset: Data set, as in `TrainConfig`.
        batch_size: The batch size of a data set that is not in the paper.
    """
    return _STAGE2.get(dataset) or dataclasses.replace(_IMAGENET, batch_size=batch_size, source=OURS)
