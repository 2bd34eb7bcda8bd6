"""Results of a classifier against sums over its images, written out."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastlt.config import TrainConfig
from fastlt.evaluation.calibration import calibration_error
from fastlt.evaluation.classifier import Classifier
from fastlt.evaluation.predictions import Predictions
from fastlt.evaluation.scoring import accuracies, compare, score
from fastlt.evaluation.target import adjust_to_target
from fastlt.models import LinearHead

COUNTS = [150, 101, 60, 19, 5]  # two classes of many, one of medium and two of few shots
GROUPS = {"many": (0, 1), "medium": (2,), "few": (3, 4), "class_mean": (0, 1, 2, 3, 4)}
LABELS = np.repeat(np.arange(5), [40, 30, 20, 12, 6])
RNG = np.random.default_rng(4)


def drawn_predictions(share: float) -> Predictions:
    classes = np.where(RNG.random(len(LABELS)) < share, LABELS, RNG.integers(5, size=len(LABELS)))
    return Predictions(LABELS, classes, RNG.uniform(0.2, 1, len(LABELS)), np.log(RNG.uniform(0.01, 1, len(LABELS))))


def classifier(method: str, val: Predictions, test: Predictions | None = None, **changes: Any) -> Classifier:
    config = TrainConfig(
        sampling=changes.pop("sampling", "instance_balanced"), loss=changes.pop("loss", "cross_entropy")
    )
    run = SimpleNamespace(path=Path("run"), config=config, data={"class_counts": COUNTS})
    cache = {"val": val} if test is None else {"val": val, "test": test}
    head = LinearHead(torch.eye(5), torch.arange(5.0))
    store = SimpleNamespace(run=run, names=["train", "val"])
    return Classifier(method=method, head=head, store=store, path=Path("x"), cache=cache, **changes)  # type: ignore[arg-type]


def class_accuracies(predictions: Predictions) -> list[float]:
    return [float((predictions.classes[c == LABELS] == c).mean()) for c in range(5)]


def test_accuracies_and_their_images_by_hand() -> None:
    val = drawn_predictions(0.5)
    got, by_class = score(classifier("tau", val), "val"), class_accuracies(val)
    assert (got.all.value, got.all.n) == (pytest.approx(100 * (val.classes == LABELS).mean()), 108)
    for name, members in GROUPS.items():
        accuracy = getattr(got, name)
        assert accuracy.value == pytest.approx(100 * np.mean([by_class[c] for c in members]))
        assert accuracy.n == np.isin(LABELS, members).sum()
        assert accuracy.ci95[0] < accuracy.value < accuracy.ci95[1]
    assert got.target is None


def test_the_accuracy_of_all_images_is_not_rounded_below_its_decimals() -> None:
    overall = accuracies(np.array([1769]), np.array([2000]), np.array([10]))["all"]
    assert overall is not None
    assert overall.value == 88.45


def test_likelihood_f1_and_calibration_by_hand() -> None:
    val = drawn_predictions(0.5)
    got = score(classifier("tau", val), "val")
    assert got.nll == pytest.approx(-val.log_likelihoods.mean())
    both = [
        (np.sum((c == LABELS) & (val.classes == c)), np.sum(c == LABELS) + np.sum(val.classes == c)) for c in range(5)
    ]
    assert got.macro_f1 == pytest.approx(100 * np.mean([2 * hits / either for hits, either in both]))
    assert got.ece is not None
    for name, members in ({"all": range(5)} | GROUPS).items():
        if name != "class_mean":
            rows = np.isin(LABELS, members)
            assert got.ece[name] == pytest.approx(100 * calibration_error(val.confidences[rows], val.right[rows]))


def test_under_a_target_classes_come_as_often_as_it_says_and_nothing_is_said_of_confidences() -> None:
    val, prior = drawn_predictions(0.5), np.array([0.1, 0.0, 0.2, 0.3, 0.4])
    got = score(classifier("tau", val, prior=prior, params={"target": "x.csv"}), "val")
    assert got.target is not None
    assert got.target.value == pytest.approx(100 * float(prior @ class_accuracies(val)))
    assert got.target.n == (LABELS != 1).sum()
    assert (got.ece, got.nll) == (None, None)


def test_comparisons_are_of_one_split_and_count_for_the_first() -> None:
    ours, theirs = (
        classifier("crt", drawn_predictions(0.9), drawn_predictions(0.6)),
        classifier("joint", drawn_predictions(0.4), drawn_predictions(0.5)),
    )
    for comparison in compare([ours], theirs, ("val", "test")):
        assert (comparison.method, comparison.against) == ("crt", "joint")
        accuracies = [class_accuracies(each.predictions(comparison.split)) for each in (ours, theirs)]
        for name, members in GROUPS.items():
            difference = comparison.differences[name]
            assert difference is not None
            expected = np.mean([accuracies[0][c] - accuracies[1][c] for c in members])
            assert difference.value == pytest.approx(100 * expected)
            assert difference.n == np.isin(LABELS, members).sum()
        right = [each.predictions(comparison.split).right.mean() for each in (ours, theirs)]
        assert comparison.differences["all"] is not None
        assert comparison.differences["all"].value == pytest.approx(100 * (right[0] - right[1]))
        assert comparison.differences["all"].n == 108


@pytest.mark.parametrize(
    ("method", "settings", "power"),
    [
        ("joint", {}, 1.0),
        ("joint", {"sampling": "square_root"}, 0.5),
        ("joint", {"loss": "balanced_softmax"}, 0.0),
        ("crt", {}, 0.0),
    ],
)
def test_a_target_moves_the_bias_from_what_the_classifier_was_made_for(
    method: str, settings: dict[str, str], power: float
) -> None:
    prior, source = np.array([0.1, 0.2, 0.2, 0.2, 0.3]), np.array(COUNTS) ** power
    predictions = drawn_predictions(0.5)
    before = dataclasses.replace(classifier(method, predictions, **settings), held_out=predictions)
    adjusted = adjust_to_target(before, "x.csv", prior)
    expected = np.arange(5) + np.log(prior) - np.log(source / source.sum())
    assert adjusted.head.bias is not None
    np.testing.assert_allclose(adjusted.head.bias.detach(), expected, rtol=1e-5)
    assert (adjusted.params, adjusted.cache, adjusted.held_out) == ({"target": "x.csv"}, {}, None)


def test_a_target_takes_a_joint_head_that_a_method_kept_for_what_it_is() -> None:
    prior = np.array([0.1, 0.2, 0.2, 0.2, 0.3])
    for method, params in (("joint", {}), ("tau", {"joint": True})):
        adjusted = adjust_to_target(classifier(method, drawn_predictions(0.5), params=params), "x.csv", prior)
        expected = np.arange(5) + np.log(prior) - np.log(np.array(COUNTS) / sum(COUNTS))
        np.testing.assert_allclose(adjusted.head.bias.detach(), expected, rtol=1e-5)
