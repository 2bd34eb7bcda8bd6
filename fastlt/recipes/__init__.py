"""One module per data set, each a function that returns its training configuration."""

from __future__ import annotations

from collections.abc import Callable

from ..config import TrainConfig, check_choice
from .folder import folder
from .glyphs_lt import glyphs_lt
from .imagenet_lt import imagenet_lt
from .inat2018 import inat2018
from .places_lt import places_lt

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe for recipe in (glyphs_lt, imagenet_lt, inat2018, places_lt, folder)
}

__all__ = ["RECIPES", "recipe"]


def recipe(name: str) -> TrainConfig:
    """Return the settings of a data set.

    Raises:
        ValueError: There is no such recipe; the message names the nearest.
    """
    check_choice("--dataset", name, RECIPES)
    return RECIPES[name]()
