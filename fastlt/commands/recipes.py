"""`fastlt recipes`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import tyro
from rich.table import Table

from .common import Output, console, parse, say, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipes(Output):
    """List the recipes, or print one: every value, and where it comes from."""

    name: tyro.conf.Positional[str] = ""
    """The recipe to print; without it all are listed."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt recipes`."""
    parsed = parse(Recipes, argv, "recipes")
    if parsed.name:
        write_output(parsed.json, print_recipe(parsed.name))
    else:
        write_output(parsed.json, print_list())


def print_recipe(name: str) -> dict[str, Any]:
    """Print a recipe and return it: the settings, and about them ``sources``, ``choices``, ``stage2``, ``quirks``."""
    from ..recipes import choices, recipe, sources
    from ..recipes.quirks import QUIRKS
    from ..recipes.stage2 import PAPERS, stage2

    values, origins, published, later = recipe(name).to_json(), sources(name), choices(name), stage2(name)
    settings = Table("setting", "value", "source", "also published")
    for key, origin in origins.items():
        others = ", ".join(str(value) for value in published.get(key, ()) if value != values[key])
        settings.add_row(f"--{key.replace('_', '-')}", show(values[key]), origin, others)
    settings.add_section()
    settings.add_row("rebalance --method crt --epochs", str(later.crt_epochs), later.source, "")
    settings.add_row("rebalance --method lws --epochs", str(later.lws_epochs), later.source, "")
    console.print(settings)
    if name in PAPERS:
        differences = Table("the released code differs in", "here", "there", "switch", title="--protocol released")
        for quirk in QUIRKS:
            differences.add_row(quirk.name, quirk.paper, quirk.released, quirk.switch or "-")
        console.print(differences)
    say(f"next: fastlt train --dataset {name}{'' if name == 'glyphs_lt' else ' --data-root DIR'}")
    return values | {
        "sources": origins,
        "choices": {key: list(each) for key, each in published.items()},
        "stage2": dataclasses.asdict(later),
        "quirks": [dataclasses.asdict(quirk) for quirk in QUIRKS] if name in PAPERS else [],
    }


def show(value: Any) -> str:
    """Return a setting's value as it would be typed."""
    if value is None or value == []:
        return "-"
    return " ".join(map(show, value)) if isinstance(value, list | tuple) else f"{value}"


def print_list() -> dict[str, Any]:
    """Print what recipes there are, and return their settings by name."""
    from ..recipes import RECIPES

    table = Table("recipe", "backbone", "epochs", "batch", "image size", "what it is for")
    rows = {}
    for name, make in RECIPES.items():
        config = make()
        rows[name] = config.to_json()
        # The module's docstring begins with the names of its recipes
        words = (sys.modules[make.__module__].__doc__ or "").split(", ")
        purpose = ", ".join(word for word in words if word not in RECIPES)
        cells = (config.backbone, config.epochs, config.batch_size, config.image_size, purpose)
        table.add_row(name, *map(str, cells))
    console.print(table)
    return rows
