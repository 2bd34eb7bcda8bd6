"""One module per data set, each a function that returns its training configuration."""

from __future__ import annotations

from collections.abc import Callable

from ..config import TrainConfig, check_choice
from .folder import folder
from .glyphs_lt import glyphs_lt

RECIPES: dict[str, Callable[[], TrainConfig]] = {recipe.__name__: recipe for recipe in (glyphs_lt, folder)}

__all__ = ["RECIPES", "recipe"]


def recipe(name: str) -> TrainConfig:
    """Return the settings of a data set.

    Raises:
        ValueError: There is no such recipe; the message names the nearest.
    """
    check_choice("--dataset", name, RECIPES)
    return RECIPES[name]()
