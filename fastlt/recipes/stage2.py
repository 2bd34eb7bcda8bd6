"""The paper's settings of stage 2, by data set."""

from __future__ import annotations

from dataclasses import dataclass

from .sources import AUTHOR, CODE, OURS

PAPERS = ("imagenet_lt", "inat2018", "places_lt")


@dataclass(frozen=True, kw_only=True)
class Stage2:
    """Epochs of the trained classifiers, and where they come from."""

    crt_epochs: int
    lws_epochs: int
    source: str


def stage2(dataset: str) -> Stage2:
    """Return how long the paper trains classifiers on a data set; others take ImageNet-LT's."""
    source = AUTHOR if dataset == "places_lt" else CODE if dataset in PAPERS else OURS
    return Stage2(crt_epochs=30 if dataset == "inat2018" else 10, lws_epochs=5, source=source)
