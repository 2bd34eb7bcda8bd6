"""`fastlt evaluate` on a run: every classifier, paired differences, per-class tables, targets."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastlt import EvaluateConfig, RebalanceConfig, Run, evaluate, rebalance


@pytest.fixture
def rebalanced(run_copy: Run) -> Run:
    rebalance(run_copy, RebalanceConfig(method="tau"))
    rebalance(run_copy, RebalanceConfig(method="ncm"))
    return run_copy


def test_all_classifiers_are_compared_with_joint_on_the_same_images(rebalanced: Run) -> None:
    results = evaluate(rebalanced, config=EvaluateConfig(method="all"))
    assert [(row.split, row.method) for row in results] == [
        (split, method) for split in ("val", "test") for method in ("joint", "tau", "ncm")
    ]
    for each in results.comparisons:
        ours, joint = results.find(each.method, each.split), results.find("joint", each.split)
        for name in ("all", "class_mean", "many", "medium", "few"):
            if (difference := each.differences[name]) is not None:
                assert difference.value == pytest.approx(getattr(ours, name).value - getattr(joint, name).value)
                assert difference.ci95[0] <= difference.value <= difference.ci95[1]
    tau = results.find("tau", "test")
    assert tau.selection == "class_mean on val"
    assert tau.config == rebalanced.config.fingerprint()
    assert 0 <= tau.ece["all"] <= 100


def test_the_per_class_table_adds_up(rebalanced: Run) -> None:
    results = evaluate(rebalanced, config=EvaluateConfig(method="tau", against="ncm", split="test"))
    assert {each.against for each in results.comparisons} == {"ncm"}
    folder = rebalanced.method("tau")
    classes = json.loads((folder / "per_class.test.json").read_text())["classes"]
    assert (folder / "per_class.test.csv").is_file()
    assert [each["train_count"] for each in classes] == rebalanced.data["class_counts"]
    accuracies = [each["accuracy"] for each in classes]
    assert np.mean(accuracies) == pytest.approx(results.find("tau", "test").class_mean.value)
    assert json.loads((folder / "evaluation.json").read_text())["comparisons"][0]["against"] == "ncm"


def test_a_uniform_target_is_the_mean_of_class_accuracies(rebalanced: Run) -> None:
    row = evaluate(rebalanced, config=EvaluateConfig(method="tau", split="test", target="uniform")).find("tau", "test")
    assert row.target.value == pytest.approx(row.class_mean.value)
    assert row.ece is None
    assert not (rebalanced.method("tau") / "evaluation.json").exists()


def test_the_joint_classifier_stays_itself_under_the_frequencies_it_was_trained_on(run_copy: Run) -> None:
    plain = evaluate(run_copy, config=EvaluateConfig(split="test")).find("joint", "test")
    row = evaluate(run_copy, config=EvaluateConfig(split="test", target="train")).find("joint", "test")
    assert row.all == plain.all
    assert row.target.value != pytest.approx(row.class_mean.value)


def test_the_target_can_be_estimated_from_a_folder(rebalanced: Run, data_root: Path) -> None:
    folder = data_root / "test"
    row = evaluate(
        rebalanced, config=EvaluateConfig(method="tau", split="test", target=f"estimate:{folder}", device="cpu")
    ).find("tau", "test")
    assert row.params["target"] == f"estimate:{folder}"
    assert row.target.n > 0


def test_what_cannot_be_is_refused_in_one_line(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="0.7", target="train"))
    for config, message in (
        (EvaluateConfig(method="tau", target="uniform"), r"^--target: got uniform\b.*\btrain\b"),
        (EvaluateConfig(against="crt"), "^--against: .*crt"),
        (EvaluateConfig(target="estimate:"), "^--target: got estimate: .*estimate:DIR"),
        (EvaluateConfig(target="estimate:nowhere"), "^--target: got estimate:nowhere"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            evaluate(run_copy, config=config)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^--against: got tau\b"):
        EvaluateConfig(method="tau", against="tau")
