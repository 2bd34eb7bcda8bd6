"""A checkpoint whose data have no val: everything is chosen by folds of train, and said so."""

import csv
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastlt import Run, cli
from fastlt.data import open_splits
from fastlt.evaluation.choice import read_choice
from fastlt.evaluation.results import Accuracy
from fastlt.features import FeatureStore

FLAGS = ("--image-size", "32", "--eval-resize", "32", "--mean", *["0.5"] * 3, "--std", *["0.25"] * 3)
PLACE = ("--device", "cpu", "--num-threads", "1", "--loader", "memory")


@pytest.fixture
def run(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run fastlt in a folder with net.pth."""

    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["fastlt", *map(str, arguments)])
        cli.main()

    return call


@pytest.fixture
def data(colours: Path, fitted: Any, workshop: Path) -> Callable[..., Path]:
    """Copy splits of the colours beside net.pth, a network that knows their train images."""
    torch.save(fitted("resnet10").tensors, workshop / "net.pth")

    def copy(*splits: str) -> Path:
        for split in splits:
            shutil.copytree(colours / split, workshop / "data" / split)
        return workshop / "data"

    return copy


def adopted() -> Path:
    (found,) = Path("runs/adopted").glob("net-*")
    return found


def test_plain_rebalance_chooses_by_folds_of_train(
    data: Callable[..., Path], run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run("rebalance", "net.pth", "--data-root", data("train"), *FLAGS, *PLACE, "--epochs", 2, "--json", "said.json")
    out, err = capsys.readouterr()
    assert "no val in" in out + err
    said = json.loads(Path("said.json").read_text())
    choice = said["choice"]
    assert choice["split"] == "train"
    assert {row["split"] for row in said["results"]} == {"train"}
    num_images = sum(1 for _ in Path("data/train").glob("*/*"))
    for candidate in choice["candidates"]:
        assert candidate["result"]["all"]["n"] == num_images
    values = [candidate["result"]["class_mean"]["value"] for candidate in choice["candidates"]]
    assert values == sorted(values, reverse=True)
    assert f"chosen: {choice['method']}" in out
    made = read_choice(FeatureStore(Run(adopted()), device="cpu"))
    assert made is not None
    best = made.candidates[0]
    for value, is_told in ((99.5, True), (60.0, False)):
        accuracy = Accuracy(value=value, ci95=(value, value), n=9)
        sure = dataclasses.replace(best, result=dataclasses.replace(best.result, class_mean=accuracy))
        choice_of = dataclasses.replace(made, candidates=[sure, *made.candidates[1:]])
        assert ("says little" in choice_of.sentence(has_test=False)) is is_told
        assert choice_of.sentence(has_test=True).endswith("the test row tells")

    # Every later command goes by it
    source = adopted()
    images = sorted(Path("data/train/colour 0").iterdir())[:2]
    run("predict", source, *images, "--device", "cpu", "--out", "said.csv")
    with Path("said.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["colour 0"] * 2
    run("evaluate", source, *PLACE, "--method", "all", "--json", "evaluated.json")
    rows = {row["method"]: row for row in json.loads(Path("evaluated.json").read_text())["results"]}
    candidates = {candidate["result"]["method"]: candidate["result"] for candidate in choice["candidates"]}
    assert {row["split"] for row in rows.values()} == {"train"}
    for method in ("joint", choice["method"]):
        assert rows[method]["class_mean"] == candidates[method]["class_mean"]
    run("report", source, "--device", "cpu")
    page = (source / "report" / "index.html").read_text()
    assert "train is folds of images that the network has learned, mostly too high: only their order counts" in page
    assert "90 epochs" not in page  # of which the checkpoint says nothing


def test_a_test_split_is_scored_and_chooses_nothing(data: Callable[..., Path], run: Callable[..., None]) -> None:
    root = data("train", "test")
    arguments = ("rebalance", "net.pth", "--data-root", root, *FLAGS, *PLACE, "--method", "tau", "--no-temperature")
    run(*arguments, "--json", "first.json", "--out", "first.pth")
    rows = json.loads(Path("first.json").read_text())["results"]
    assert [row["split"] for row in rows] == ["train", "train", "test", "test"]
    assert {row["selected_on"] for row in rows if row["method"] == "tau"} == {"train"}
    for folder in sorted((root / "test").iterdir()):  # of other labels
        folder.rename(folder.with_name(f"{folder.name}."))
    names = sorted(path.name.removesuffix(".") for path in (root / "test").iterdir())
    for folder, name in zip(sorted((root / "test").iterdir()), [*names[1:], names[0]], strict=True):
        folder.rename(folder.with_name(name))
    run(*arguments, "--json", "second.json", "--out", "second.pth")
    others = json.loads(Path("second.json").read_text())["results"]
    assert [row["all"] for row in others[:2]] == [row["all"] for row in rows[:2]]
    assert [row["params"] for row in others] == [row["params"] for row in rows]
    assert [row["all"] for row in others[2:]] != [row["all"] for row in rows[2:]]
    first, second = (torch.load(name, weights_only=True) for name in ("first.pth", "second.pth"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_test_is_scored_where_there_are_no_folds_of_train(
    data: Callable[..., Path], run: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    where = ("rebalance", "net.pth", "--data-root", data("train", "test"), *FLAGS, *PLACE, "--no-temperature")
    run(*where, "--method", "tau", "--select-on", "test", "--force", "--json", "made.json")
    assert {row["split"] for row in json.loads(Path("made.json").read_text())["results"]} == {"test"}
    run("evaluate", adopted(), *PLACE, "--method", "tau", "--json", "evaluated.json")
    assert "train is left out, as there are no predictions of tau, joint by folds of it" in caplog.text
    assert {row["split"] for row in json.loads(Path("evaluated.json").read_text())["results"]} == {"test"}
    run("report", adopted(), "--device", "cpu")
    page = (adopted() / "report" / "index.html").read_text()
    assert "Train is left out, as there are no predictions of joint, tau by folds of it." in page
    run(*where, "--method", "ncm")
    run("evaluate", adopted(), *PLACE, "--method", "ncm", "--json", "evaluated.json")
    assert {row["split"] for row in json.loads(Path("evaluated.json").read_text())["results"]} == {"train", "test"}


def test_train_goes_through_the_network_once(data: Callable[..., Path], run: Callable[..., None]) -> None:
    where = ("rebalance", "net.pth", "--data-root", data("train"), *FLAGS, *PLACE, "--method", "ncm")
    run(*where, "--feature-precision", "bf16")
    assert [path.name for path in (adopted() / "features").glob("*.npy") if "labels" not in path.name] == [
        "train.bf16.features.npy"
    ]


def test_folds_of_joint_are_made_anew_where_they_are_damaged_or_others(
    data: Callable[..., Path], run: Callable[..., None]
) -> None:
    place = (*PLACE, "--method", "ncm", "--no-temperature")
    run("rebalance", "net.pth", "--data-root", data("train"), *FLAGS, *place)
    folds, found = (adopted() / "joint" / name for name in ("folds.npz", "evaluation.json"))
    whole = folds.read_bytes()
    folds.write_bytes(whole[:100])
    run("rebalance", adopted(), *place)
    assert folds.read_bytes() == whole
    run("evaluate", adopted(), *PLACE, "--method", "joint")
    run("rebalance", adopted(), *place)
    assert found.exists()
    run("rebalance", adopted(), *place, "--seed", 1)
    assert folds.read_bytes() != whole
    assert not found.exists()


def test_what_needs_val_says_so(
    data: Callable[..., Path], run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("rebalance", "net.pth", "--data-root", data("train"), *FLAGS, *PLACE, "--method", "crt")
    for flags, start in (
        (["--features", "live"], "--features live: got it with runs"),
        (["--reestimate-batch-norm"], "--reestimate-batch-norm: got it with runs"),
        (["--select-on", "test", "--force"], "--select-on: got test"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(*where, *flags)
        assert stop.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"fastlt: {start}")
    for command in ("evaluate", "report"):
        with pytest.raises(SystemExit) as stop:
            run(command, adopted(), "--device", "cpu")
        assert stop.value.code == 2
        assert "make them with: fastlt rebalance runs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("evaluate", adopted(), "--device", "cpu", "--split", "val")
    assert "whose data have no val; expected all; choose" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("train", "--data-root", "data")
    assert "val" in capsys.readouterr().err


def test_data_may_be_opened_without_val(data: Callable[..., Path]) -> None:
    root = data("train", "test")
    assert list(open_splits(root, needs_val=False)) == ["train", "test"]
    with pytest.raises(ValueError, match="no val split"):
        open_splits(root)


def test_the_tail_of_data_without_val_is_shown(
    data: Callable[..., Path], run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run("data", "info", data("train"), "--json", "said.json")
    assert list(json.loads(Path("said.json").read_text())["splits"]) == ["train"]
    assert "imbalance ratio" in capsys.readouterr().out
