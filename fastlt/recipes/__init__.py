"""One module per data set, with a function that returns its training settings."""

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

PUBLISHED_RECIPES = tuple(name for name in RECIPES if name not in ("glyphs_lt", "folder"))
"""The recipes of published data sets; `data.registry` has the sets themselves."""

__all__ = ["PUBLISHED_RECIPES", "RECIPES", "choices", "recipe", "sources"]


def recipe(name: str) -> TrainConfig:
    """Return the training settings of a data set's recipe.

    Args:
        name: The data set, a key of `RECIPES`.

    Raises:
        ValueError: There is no such recipe; the message names the nearest.

    Example:
        >>> from fastlt import recipe
        >>> recipe("inat2018").backbone
        'resnet50'
    """
    check_choice("--dataset", name, RECIPES)
    return RECIPES[name]()


def sources(name: str) -> dict[str, str]:
    """Return where each of a recipe's values comes from, by setting; see `fastlt.recipes.sources`.

    Args:
        name: The data set, a key of `RECIPES`.

    Raises:
        ValueError: There is no such recipe.
    """
    recipe(name)
    return complete(getattr(sys.modules[RECIPES[name].__module__], "SOURCES", {}))


def choices(name: str) -> dict[str, tuple[str | int, ...]]:
    """Return the backbones and numbers of epochs for which the paper has results, by setting; empty for our data sets.

    Args:
        name: The data set, a key of `RECIPES`.
    """
    module = sys.modules[RECIPES[name].__module__]
    named = {"backbone": getattr(module, "BACKBONES", ()), "epochs": getattr(module, "EPOCHS", ())}
    return {setting: values for setting, values in named.items() if values}
