"""The table of `fastlt reproduce`: intervals over seeds, the paper's column, the finding."""

import csv
import dataclasses
import io
import math
from typing import Any

import pytest
from rich.console import Console

from fastlt.commands.reproduce import tables
from fastlt.config import METHODS, SAMPLINGS, TrainConfig
from fastlt.evaluation.results import Accuracy, Result, Results
from fastlt.recipes import recipe
from fastlt.recipes.published import published
from fastlt.report.reproduction import Reproduction, finding, over_seeds, tabulate

PLAIN = "instance_balanced"


def result(sampling: str, method: str, seed: int, split: str, value: float) -> Result:
    accuracy = Accuracy(value=value, ci95=(value - 1, value + 1), n=100)
    return Result(
        run="run", dataset="imagenet_lt", backbone="resnext50_32x4d", sampling=sampling, seed=seed, method=method,
        params={}, split=split, selected_on="val", checkpoint="x", all=accuracy, class_mean=accuracy, many=accuracy,
        medium=accuracy, few=None,
    )  # fmt: skip


def made(seeds: tuple[int, ...], gain: float) -> Reproduction:
    """Joint scores 40 everywhere, every rebalanced classifier 40 + gain, lws 1 point more; seeds a point apart."""
    results = Results(
        tuple(
            result(sampling, method, seed, split, 40 + seed + (method != "joint") * gain + (method == "lws"))
            for seed in seeds
            for sampling in SAMPLINGS
            for method in ("joint", *METHODS)
            for split in ("val", "test")
        )
    )
    base = TrainConfig(dataset="imagenet_lt", backbone="resnext50_32x4d", epochs=90)
    rows = tuple(tabulate(results, SAMPLINGS, base))
    return Reproduction(base=base, seeds=seeds, rows=rows, finding=finding(results, SAMPLINGS), results=results)


def test_interval_over_seeds_is_students() -> None:
    value, half = over_seeds([1.0, 2.0, 3.0])
    assert value == 2
    assert half == pytest.approx(4.303 / math.sqrt(3))
    assert over_seeds([7.0]) == (7.0, None)


def test_published_figures_stand_only_where_the_paper_printed_them() -> None:
    common = {"dataset": "imagenet_lt", "sampling": PLAIN, "method": "crt"}
    row = published(backbone="resnext50_32x4d", epochs=90, **common)
    assert row is not None
    assert (row.many, row.medium, row.few, row.all) == (61.8, 46.2, 27.4, 49.6)
    assert published(backbone="resnext50_32x4d", epochs=30, **common) is None
    assert published(backbone="resnet8", epochs=90, **common) is None
    deep = published(dataset="imagenet_lt", backbone="resnext152_32x4d", epochs=90, sampling=PLAIN, method="lws")
    assert deep is not None
    assert (deep.many, deep.all) == (None, 53.3)


def test_table_has_a_row_for_every_split_sampling_and_classifier() -> None:
    table = made((0, 1, 2), gain=5)
    assert len(table.rows) == 2 * len(SAMPLINGS) * (1 + len(METHODS))
    row = next(r for r in table.rows if (r.split, r.sampling, r.method) == ("test", PLAIN, "crt"))
    assert row.cells["few"] is None
    assert row.cells["all"].value == 46
    assert row.cells["all"].half == pytest.approx(4.303 / math.sqrt(3))
    assert row.difference == pytest.approx(46 - 49.6)


def test_markdown_and_csv_hold_the_same_rows() -> None:
    table = made((0, 1), gain=5)
    lines = [line for line in table.markdown().splitlines() if line.startswith("| ")][1:]
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert len(lines) == len(rows) == len(table.rows)
    assert rows[0]["few"] == ""
    assert float(rows[0]["all"]) == table.rows[0].cells["all"].value
    assert "paper: all" in table.markdown()


@pytest.mark.parametrize(("gain", "verdict"), [(5, "better"), (-5, "worse"), (-1, "no clear difference")])
def test_finding_is_said_as_it_came_out(gain: float, verdict: str) -> None:
    table = made((0, 1, 2), gain=gain)
    gains, compared = table.finding[: len(SAMPLINGS)], table.finding[len(SAMPLINGS) :]
    assert len(compared) == len(SAMPLINGS)
    for line, sampling in zip(gains, SAMPLINGS, strict=True):
        assert line.startswith(
            f"- {sampling}, points of class mean on test over its joint classifier: tau {gain:+.1f} ± "
        )
        assert f"lws {gain + 1:+.1f} ± " in line
    for line in compared:
        assert "with lws" in line
        assert line.endswith(f": {verdict}.")


def test_a_made_up_set_has_no_published_column() -> None:
    real = made((0,), gain=5)
    base = dataclasses.replace(real.base, synthetic=True)
    rows = tuple(tabulate(real.results, SAMPLINGS, base))
    table = dataclasses.replace(real, base=base, rows=rows)
    assert all(row.published is None and row.difference is None for row in rows)
    assert "paper" not in table.header()
    assert "on a made-up set of imagenet_lt's shape" in table.markdown()
    assert {row["data"] for row in csv.DictReader(io.StringIO(table.csv()))} == {"a made-up set of imagenet_lt's shape"}


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, ""),
        ({"seed": 3, "sampling": "square_root", "device": "cpu", "num_threads": 2, "epochs": 200}, ""),
        (
            {"loss": "mine:loss", "image_size": 64, "train_only": ("fc",)},
            "These are not the paper's settings: --train-only fc for none, --loss mine:loss for cross_entropy, --im",
        ),
        ({"dataset": "glyphs_lt", "backbone": "resnet10"}, "These are not the recipe's settings: --backbone resnet10"),
    ],
)
def test_settings_other_than_the_papers_are_named(changes: dict[str, Any], note: str) -> None:
    base = dataclasses.replace(recipe(changes.get("dataset", "imagenet_lt")), **changes)
    table = dataclasses.replace(made((0,), gain=5), base=base)
    assert table.departure_note.startswith(note)
    assert bool(table.departure_note) is bool(note)
    assert note in table.markdown()
    assert bool(table.to_json()["departures"]) is bool(note)


def test_the_rows_are_those_of_the_methods_that_there_are() -> None:
    results = Results(tuple(row for row in made((0, 1), gain=5).results if row.method in ("joint", "crt", "tau")))
    own = tuple(dataclasses.replace(row, method="mine") for row in results if row.method == "crt")
    every = Results((*results, *own))
    rows = tabulate(every, SAMPLINGS, recipe("imagenet_lt"))
    assert [row.method for row in rows if (row.split, row.sampling) == ("val", PLAIN)] == [
        "joint",
        "tau",
        "crt",
        "mine",
    ]
    assert "mine +5.0" in finding(every, SAMPLINGS)[0]


def test_the_terminals_tables_are_whole_in_80_columns() -> None:
    table = made((0, 1, 2), gain=60)
    text = io.StringIO()
    for each in tables(table):
        Console(file=text, width=80).print(each)
    printed = text.getvalue()
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("logit_adjustment") == 2 * len(SAMPLINGS)
    row = next(line for line in printed.splitlines() if line.startswith("crt"))
    assert row.split() == ["crt", *["101.0±2.5"] * 2, "-", *["101.0±2.5"] * 2, "49.6", "+51.4"]


def test_one_seed_gives_no_verdict() -> None:
    lines = made((0,), gain=5).finding
    assert "lws +6.0," in lines[0]
    assert all("points of class mean on test." in line for line in lines[len(SAMPLINGS) :])
