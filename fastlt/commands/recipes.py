"""`fastlt recipes`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

import tyro
from rich.table import Table

from .common import Output, console, parse, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipes(Output):
    """List the recipes, or print one's settings."""

    name: tyro.conf.Positional[str] = ""
    """The recipe to print; without it all are listed."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt recipes`."""
    parsed = parse(Recipes, argv, "recipes")
    from ..recipes import RECIPES, recipe

    if parsed.name:
        values = recipe(parsed.name).to_json()
        console.print_json(json.dumps(values))
        write_output(parsed.json, values)
        return
    table = Table("recipe", "backbone", "epochs", "batch", "image size", "what it is for")
    rows = {}
    for name, make in RECIPES.items():
        config = make()
        rows[name] = config.to_json()
        purpose = (sys.modules[make.__module__].__doc__ or "").partition(", ")[2]
        cells = (config.backbone, config.epochs, config.batch_size, config.image_size, purpose)
        table.add_row(name, *map(str, cells))
    console.print(table)
    write_output(parsed.json, rows)
