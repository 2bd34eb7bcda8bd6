"""Results as values, JSON and tables, and the per-class table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastlt.evaluation.per_class import class_rows, write_class_table
from fastlt.evaluation.results import Accuracy, Comparison, Result, Results

WIDE = Accuracy(value=55.5, ci95=(45.4, 65.6), n=10)
PLACE = {"run": "run", "dataset": "d", "backbone": "b", "sampling": "s", "seed": 0, "checkpoint": "c"}
NUMBERS = {"all": WIDE, "class_mean": WIDE, "many": WIDE, "medium": WIDE, "few": None}


def row(**changes: object) -> Result:
    plain = {"method": "logit_adjustment", "params": {}, "split": "test", "selected_on": None}
    return Result(**{**PLACE, **NUMBERS, **plain, **changes})


def test_json_goes_there_and_back(tmp_path: Path) -> None:
    results = Results((row(target=WIDE, ece={"all": 1.5, "few": None}, macro_f1=50.0, nll=1.0, config="f"), row()))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results.to_json()))
    assert Results.read(path) == results


def test_results_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    values = Results((row(),)).to_json()
    for key in ("target", "ece", "macro_f1", "nll", "selection", "config"):
        del values["results"][0][key]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(values))
    assert Results.read(path) == Results((row(),))


def test_every_table_fits_80_columns_at_its_widest() -> None:
    ece = {"all": 12.3, "many": 12.3, "medium": 12.3, "few": None}
    change = Accuracy(value=-22.2, ci95=(-33.3, -11.1), n=10)
    results = Results(
        (row(target=WIDE, ece=ece, macro_f1=55.5, nll=12.345),),
        (Comparison(method="logit_adjustment", against="joint", split="test", differences={
            "all": change, "class_mean": change, "many": change, "medium": change, "few": None}),),
    )  # fmt: skip
    for table in (results.details_table(), results.comparison_table()):
        console = Console(width=200, record=True)
        console.print(table)
        text = console.export_text()
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
        assert "logit_adjustment" in text


def test_a_difference_that_rounds_to_nothing_has_a_plus() -> None:
    texts = [Accuracy(value=value, ci95=(value - 2, value + 2), n=10).signed for value in (-1e-15, -0.04, -0.06, 0.04)]
    assert texts == ["+0.0±2.0", "+0.0±2.0", "-0.1±2.0", "+0.0±2.0"]


def test_the_per_class_table_leaves_unknowns_empty(tmp_path: Path) -> None:
    rows = class_rows(
        np.array([0, 0, 1]),
        np.array([0, 1, 1]),
        class_names=["ant", "bee, wild", "cat"],
        class_counts=[9, 5, 2],
        norms=[1.0, 2.0, 3.0],
    )
    write_class_table(tmp_path, "val", rows)
    with (tmp_path / "per_class.val.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["class"] for line in table] == ["ant", "bee, wild", "cat"]
    assert [line["accuracy"] for line in table] == ["100.0", "50.0", ""]
    assert [line["precision"] for line in table] == ["50.0", "100.0", ""]
    read = json.loads((tmp_path / "per_class.val.json").read_text())
    assert read["classes"][2] == {
        "class": "cat", "train_count": 2, "num_images": 0, "accuracy": None, "precision": None, "weight_norm": 3.0
    }  # fmt: skip


def test_long_settings_wrap_and_the_method_and_numbers_stay_whole() -> None:
    params = {"strength": 1.234, "target": "estimate:some/folder/of/images"}
    console = Console(width=80, record=True)
    console.print(Results((row(params=params, few=WIDE),)).table("run"))
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert text.count("55.5±10.1") == 5
    assert "logit_adjustment" in text
    assert "…" not in text


def test_a_method_that_kept_the_joint_head_says_so() -> None:
    assert row(method="tau", params={"joint": True, "temperature": 1.5}).label == "tau (joint)"
    assert row(method="tau", params={"tau": 0.75}).label == "tau 0.75"


def test_a_missing_result_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Results(()).find("tau", "val")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"all": None}, r"\$\.results\[0\]\.all"),
        ({"all": {"value": 1.0, "ci95": [1.0], "n": 3}}, r"\$\.results\[0\]\.all\.ci95"),
        ({"all": {"value": "1", "ci95": [1.0, 2.0], "n": 3}}, r"\$\.results\[0\]\.all\.value"),
        ({"all": [1, 2, 3]}, r"\$\.results\[0\]\.all"),
        ({"params": []}, r"\$\.results\[0\]\.params"),
        ({"method": 3}, r"\$\.results\[0\]\.method"),
        ({"ece": {"all": "low"}}, r"\$\.results\[0\]\.ece"),
        ({"seed": 1.5}, r"\$\.results\[0\]\.seed"),
    ],
)
def test_a_damaged_result_is_named_with_its_place(tmp_path: Path, change: dict[str, object], named: str) -> None:
    values = Results((row(),)).to_json()
    values["results"][0] |= change
    path = tmp_path / "results.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"^{path}: got .*{named}"):
        Results.read(path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{}", '{"schema": 1}', '{"schema": 2, "results": []}', '{"schema": 1, "results": [3]}',
     '{"schema": 1, "results": {"a": 1}}', '{"schema": 1, "results": ' + "[" * 10**5, '{"schema": 1e999}'],
)  # fmt: skip
def test_what_holds_no_results_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"^{path}: got "):
        Results.read(path)


def test_settings_of_any_kind_have_a_label() -> None:
    assert row(params={"a": None, "b": [1], "c": 0.12345}).label == "logit_adjustment (a None, b [1], c 0.123)"
    assert row(params={"a": 10**400}).label == f"logit_adjustment (a {10**400})"  # as a damaged file may have it


def test_only_our_own_names_are_put_in_words() -> None:
    found = Results(
        tuple(row(method=name, selection="class_mean on val") for name in ("logit_adjustment", "My_method", "los"))
    )
    phrase = "chosen by class_mean on val: logit_adjustment, My_method, los"
    assert list(found.selections()) == [phrase]
    assert list(found.selections(plain=True)) == ["chosen by class mean on val: logit adjustment, My_method, los"]
