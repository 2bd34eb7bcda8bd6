"""Plain `fastlt rebalance`: one classifier is chosen by cross-validated val, and every command goes by it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlt import EvaluateConfig, ExportConfig, PredictConfig, RebalanceConfig, Run, evaluate, export, predict
from fastlt import rebalance as rebalance_run
from fastlt.cli import dispatch
from fastlt.config import METHODS
from fastlt.evaluation.choice import Choice, default_method, read_choice
from fastlt.features import Features
from fastlt.features.store import FeatureStore
from fastlt.metrics import shot_accuracy
from fastlt.rebalancing import Problem, RebalancedHead, choosing, nearest_class_mean, register, validation
from fastlt.rebalancing.curve import tau_curve
from fastlt.rebalancing.engine.folds import stratified_folds
from fastlt.rebalancing.methods.crt import CRT
from fastlt.rebalancing.methods.tau import tau_normalize
from fastlt.rebalancing.validation import ValidationSplit

CPU = torch.device("cpu")
PLAIN = RebalanceConfig(epochs=1, device="cpu", num_threads=1)
FLAGS = ("--image-size", "32", "--eval-resize", "32", "--mean", *["0.5"] * 3, "--std", *["0.25"] * 3, "--epochs", "1")
WHERE = ("--device", "cpu", "--num-threads", "1")


def store_of(run: Run) -> FeatureStore:
    return FeatureStore(run, device=CPU, num_threads=1)


def choice_of(run: Run) -> Choice:
    choice = read_choice(store_of(run))
    assert choice is not None
    return choice


def on(problem: Problem, selection: Features) -> ValidationSplit:
    return ValidationSplit(problem=dataclasses.replace(problem, selection=selection))


@pytest.fixture
def all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method gives the joint head back."""

    def fit(problem: Problem, config: RebalanceConfig) -> dict[str, RebalancedHead]:
        return {config.method: RebalancedHead(head=problem.head)}

    monkeypatch.setattr(validation, "fit", fit)


def test_the_best_on_cross_validated_val_is_written_and_used(run_copy: Run) -> None:
    rebalance_run(run_copy, PLAIN)
    choice, store = choice_of(run_copy), store_of(run_copy)
    rows = {each.result.method: each for each in choice.candidates}
    assert rows.keys() == {"joint", *METHODS}
    values = [each.result.class_mean.value for each in choice.candidates]
    assert values == sorted(values, reverse=True)
    assert choice.method == choice.candidates[0].result.method != "joint"
    assert rows["joint"].gain is None

    # Each is scored without having seen what it is scored on
    features, labels = store.split("val").tensors(CPU)
    counts = np.array(run_copy.data["class_counts"])
    train = store.split("train").tensors(CPU)
    answers = {"ncm": nearest_class_mean(*train, len(counts))(features).argmax(1), "tau": torch.empty_like(labels)}
    folds = torch.from_numpy(stratified_folds(labels.numpy()))
    for fold in range(5):
        rest = folds != fold
        tau = tau_curve(store.head, features[rest], labels[rest], counts).best("class_mean").tau
        answers["tau"][~rest] = tau_normalize(store.head, tau)(features[~rest]).argmax(1)
    for name, classes in answers.items():
        expected = 100 * shot_accuracy(classes.numpy(), labels.numpy(), counts).class_mean
        assert rows[name].result.class_mean.value == pytest.approx(expected)
        gain = rows[name].gain
        assert gain is not None
        assert gain.value == pytest.approx(expected - rows["joint"].result.class_mean.value)

    # Only the winner is written, and its row of val is the cross-validated one
    assert [path.name for path in (run_copy.path / "rebalanced").iterdir() if path.is_dir()] == [choice.method]
    results = evaluate(run_copy, config=EvaluateConfig(device="cpu", num_threads=1))
    assert {row.method for row in results} == {choice.method}
    assert results.find(choice.method, "val").class_mean.value == pytest.approx(values[0])
    assert export(run_copy, ExportConfig(out=run_copy.path / "net.pth")).method == choice.method


def test_the_same_choice_again_and_without_a_choice_several_are_ambiguous(run_copy: Run) -> None:
    rebalance_run(run_copy, PLAIN)
    files = {path: path.read_bytes() for path in (run_copy.path / "rebalanced").rglob("*") if path.is_file()}
    rebalance_run(run_copy, PLAIN)
    assert {path: path.read_bytes() for path in files} == files
    other = "tau" if choice_of(run_copy).method != "tau" else "ncm"
    rebalance_run(run_copy, RebalanceConfig(method=other, device="cpu", num_threads=1))
    assert default_method(store_of(run_copy)) == choice_of(run_copy).method
    (run_copy.path / "rebalanced" / "chosen.json").unlink()
    with pytest.raises(ValueError, match=r"^--method: got none\b.*fastlt rebalance "):
        default_method(store_of(run_copy))


def test_of_equals_joint_wins_and_the_commands_use_it(
    run_copy: Run, data_root: Path, all_alike: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(run_copy.path)
    for method in ("tau", "ncm"):  # made before, by name
        rebalance_run(run_copy, RebalanceConfig(method=method, device="cpu", num_threads=1))
    made = {path.name for path in (run_copy.path / "rebalanced").iterdir()}
    dispatch(["rebalance", run, *WHERE, "--json", "choice.json"])
    said = capsys.readouterr().out
    assert "chosen: joint" in said
    assert "no method is better" in said
    assert {path.name for path in (run_copy.path / "rebalanced").iterdir()} == {*made, "chosen.json"}
    content = json.loads(Path("choice.json").read_text())
    assert content["choice"]["method"] == "joint"
    assert {row["method"] for row in content["results"]} == {"joint"}
    image = next((data_root / "test").glob("*/*"))
    config = PredictConfig(device="cpu", num_threads=1)
    assert predict(run_copy, image, config=config).method == "joint"
    assert export(run_copy, ExportConfig(out=Path("net.pth"))).method == "joint"
    dispatch(["report", run, "--device", "cpu"])
    page = (run_copy.path / "report" / "index.html").read_text()
    assert "The joint classifier is chosen among 9 classifiers" in page
    assert "make one with" not in page
    with pytest.raises(ValueError, match=r"^--target: got train\b.*\bjoint\b.*--method"):
        rebalance_run(run_copy, RebalanceConfig(target="train", device="cpu", num_threads=1))


def test_a_method_by_name_keeps_the_choice_or_voids_it_and_says_so(
    run_copy: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(run_copy.path)
    dispatch(["rebalance", run, "--epochs", "1", *WHERE])
    winner = choice_of(run_copy).method
    assert f"chosen: {winner}, class mean " in capsys.readouterr().out
    other = "tau" if winner != "tau" else "ncm"
    dispatch(["rebalance", run, "--method", other, *WHERE])
    assert f"go on with {winner}" in capsys.readouterr().out
    dispatch(["rebalance", run, "--method", winner, "--epochs", "1", *WHERE])  # the same classifier again
    assert choice_of(run_copy).method == winner
    assert f"use {winner}, as chosen before" in capsys.readouterr().out
    dispatch(["rebalance", run, "--method", winner, "--epochs", "2", *WHERE])
    assert "is void" in capsys.readouterr().out
    assert read_choice(store_of(run_copy)) is None
    dispatch(["evaluate", run, "--split", "val", *WHERE])
    assert f"next: fastlt rebalance {run}" in capsys.readouterr().out


def test_a_choice_of_other_weights_is_none_and_a_damaged_one_is_named(run_copy: Run, all_alike: None) -> None:
    rebalance_run(run_copy, PLAIN)
    file = run_copy.path / "rebalanced" / "chosen.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"weights": "others"}))
    assert read_choice(store_of(run_copy)) is None
    for change in ({"method": "tao"}, {"by": "luck"}, {"schema": 2}, {"candidates": 3}):
        file.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=f"^{file}: got .*fastlt rebalance "):
            read_choice(store_of(run_copy))


def test_what_takes_long_or_fails_is_left_out_and_named(
    run_copy: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(problem: Problem) -> None:
        raise RuntimeError("boom")

    register("quick_one", lambda problem: problem.head, quick=True, needs_training=False)
    register("slow_one", lambda problem: problem.head)
    register("broken_one", broken, quick=True)  # type: ignore[arg-type]
    monkeypatch.setattr(choosing, "training_seconds", lambda method, *_, **__: 600.0 if method is CRT else 1.0)
    run = str(run_copy.path)
    dispatch(["rebalance", run, "--epochs", "1", *WHERE])
    choice, said = choice_of(run_copy), capsys.readouterr().out
    assert choice.left_out.keys() == {"crt", "slow_one", "broken_one"}
    assert "10 min" in choice.left_out["crt"]
    assert "boom" in choice.left_out["broken_one"]
    assert "quick_one" in {each.result.method for each in choice.candidates}
    assert f"fastlt rebalance {run} --method best" in said
    rebalance_run(run_copy, RebalanceConfig(method="best", epochs=1, device="cpu", num_threads=1))
    assert choice_of(run_copy).left_out.keys() == {"broken_one"}


def test_val_must_be_able_to_decide(run_copy: Run) -> None:
    problem = Problem.of_run(store_of(run_copy), PLAIN, num_views=0)
    few = problem.selection.take(np.arange(4))
    with pytest.raises(ValueError, match=r"^--method: got auto with 4 val images\b"):
        choosing.try_methods(on(problem, few), PLAIN)
    largest = problem.selection.take(np.flatnonzero(problem.selection.labels == np.argmax(problem.class_counts)))
    config = RebalanceConfig(select_by="few", device="cpu")
    with pytest.raises(ValueError, match=r"^--select-by: got few\b"):
        choosing.try_methods(on(problem, largest), config)


def test_a_class_with_one_val_image_takes_part(run_copy: Run) -> None:
    problem = Problem.of_run(store_of(run_copy), PLAIN, num_views=1)
    labels = problem.selection.labels
    rows = np.concatenate([np.flatnonzero(labels == label)[: 1 + 5 * (label < 5)] for label in range(10)])
    trials = choosing.try_methods(on(problem, problem.selection.take(rows)), PLAIN)
    assert trials.left_out == {}
    for predictions in trials.held_out.values():
        assert np.array_equal(predictions.labels, labels[rows])


@pytest.mark.parametrize("winner", ["ncm", "joint"])
def test_a_checkpoint_gets_the_winners_name(
    winner: str,
    fitted: Any,
    workshop: Path,
    rebalance_checkpoint: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fit(problem: Problem, config: RebalanceConfig) -> dict[str, RebalancedHead]:
        means = nearest_class_mean(*problem.training_tensors(), problem.head.num_classes)
        return {config.method: RebalancedHead(head=means if config.method == winner else problem.head)}

    monkeypatch.setattr(validation, "fit", fit)
    tensors = dict(fitted("resnet10").tensors)
    if winner != "joint":
        tensors["fc.bias"] = tensors["fc.bias"] - 1000 * (torch.arange(10) > 6)  # never says the smallest classes
    torch.save(tensors, "net.pth")
    rebalance_checkpoint("net.pth", *FLAGS)
    written = {path.name for path in workshop.glob("net.*")}
    assert written == ({"net.pth"} if winner == "joint" else {"net.pth", f"net.{winner}.pth"})
    rebalance_checkpoint("net.pth", *FLAGS, "--out", "best.pth")
    given, best = (torch.load(name, weights_only=True) for name in ("net.pth", "best.pth"))
    same = all(torch.equal(value, best[key]) for key, value in given.items())
    assert same is (winner == "joint")
    assert ("a copy of the input" in capsys.readouterr().out) is same
