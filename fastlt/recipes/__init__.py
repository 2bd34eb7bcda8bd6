"""One module per data set, each a function that returns its training configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..config import TrainConfig, check_choice
from .cifar_lt import cifar10_lt, cifar100_lt
from .folder import folder
from .glyphs_lt import glyphs_lt
from .imagenet_lt import imagenet_lt
from .inat2018 import inat2018
from .places_lt import places_lt
from .sources import complete

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe for recipe in (glyphs_lt, imagenet_lt, inat2018, places_lt, cifar10_lt, cifar100_lt, folder)
}

__all__ = ["RECIPES", "choices", "recipe", "sources"]


def recipe(name: str) -> TrainConfig:
    """Return the settings of a data set.

    Raises:
        ValueError: There is no such recipe; the message names the nearest.
    """
    check_choice("--dataset", name, RECIPES)
    return RECIPES[name]()


def sources(name: str) -> dict[str, str]:
    """Return where each of a recipe's values comes from, by setting; see `fastlt.recipes.sources`.

    Raises:
        ValueError: There is no such recipe.
    """
    recipe(name)
    return complete(getattr(sys.modules[RECIPES[name].__module__], "SOURCES", {}))


def choices(name: str) -> dict[str, tuple[str | int, ...]]:
    """Return the backbones and the numbers of epochs that the paper has results for, by setting; none for ours."""
    module = sys.modules[RECIPES[name].__module__]
    named = {"backbone": getattr(module, "BACKBONES", ()), "epochs": getattr(module, "EPOCHS", ())}
    return {setting: values for setting, values in named.items() if values}
