"""`fastlt recipes`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ..config.base import typed
from .common import Output, console, parse, say, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipes(Output):
    """List the recipes, or print one with the source of every value."""

    name: tyro.conf.Positional[Annotated[str, "[NAME]"]] = ""
    """The recipe to print; by default all are listed."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt recipes`."""
    parsed = parse(Recipes, argv, "recipes")
    if parsed.name:
        write_output(parsed.json, print_recipe(parsed.name))
    else:
        write_output(parsed.json, print_list())


def print_recipe(name: str) -> dict[str, Any]:
    """Print a recipe and return it: the settings, along with `sources`, `choices`, `stage2` and `quirks`."""
    from ..recipes import choices, recipe, sources
    from ..recipes.released import QUIRKS
    from ..recipes.stage2 import PAPERS, stage2

    config, origins, published = recipe(name), sources(name), choices(name)
    values, second = config.to_json(), stage2(name, batch_size=config.batch_size)
    columns = [Column(title, no_wrap=True) for title in ("setting", "value", "source")]
    if published:
        columns.append(Column("also published"))
    settings = Table(*columns, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for key, origin in origins.items():
        alternatives = ", ".join(str(value) for value in published.get(key, ()) if value != values[key])
        settings.add_row(
            f"--{key.replace('_', '-')}", typed(values[key]) or "-", origin, *([alternatives] if published else [])
        )
    settings.add_section()
    for flag, value in (
        ("--epochs", f"{second.crt_epochs} (crt), {second.lws_epochs} (lws)"),
        ("--batch-size", f"{second.batch_size}"),
        ("--lr", f"{second.lr:g}"),
        ("--weight-decay", f"{second.weight_decay:g}"),
    ):
        settings.add_row(f"rebalance {flag}", value, second.source)
    console.print(settings)
    if name in PAPERS:
        differences = Table("the released code differs in", "here", "there", "switch", title="--protocol released")
        for quirk in QUIRKS:
            differences.add_row(quirk.name, quirk.paper, quirk.released, quirk.switch or "-")
        console.print(differences)
    say(f"next: fastlt train --dataset {name}{'' if name == 'glyphs_lt' else ' --data-root DIR'}")
    return values | {
        "sources": origins,
        "choices": {key: list(choices) for key, choices in published.items()},
        "stage2": dataclasses.asdict(second) | {"lr": second.lr},
        "quirks": [dataclasses.asdict(quirk) for quirk in QUIRKS] if name in PAPERS else [],
    }


def print_list() -> dict[str, Any]:
    """Print a table of the recipes, and return their settings by name."""
    from ..recipes import RECIPES

    table = Table("recipe", "backbone", "epochs", "batch", "image size", "what it is for")
    settings = {}
    for name, make in RECIPES.items():
        config = make()
        settings[name] = config.to_json()
        # The module's docstring begins with the names of its recipes
        words = (sys.modules[make.__module__].__doc__ or "").split(", ")
        purpose = ", ".join(word for word in words if word not in RECIPES)
        cells = (config.backbone, config.epochs, config.batch_size, config.image_size, purpose)
        table.add_row(name, *map(str, cells))
    console.print(table)
    return settings
