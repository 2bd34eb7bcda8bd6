"""Accuracies by group, precision and F1."""

from typing import Any

import numpy as np
import pytest

from fastlt.metrics import (
    class_hits,
    class_precision,
    macro_f1,
    shot_accuracy,
    shot_groups,
)


def test_groups_at_the_boundaries() -> None:
    groups = shot_groups([19, 20, 100, 101])
    assert groups["few"].tolist() == [True, False, False, False]
    assert groups["medium"].tolist() == [False, True, True, False]
    assert groups["many"].tolist() == [False, False, False, True]
    touching = shot_groups([9, 10], many=9, few=10)  # none is left between them
    assert [touching[name].tolist() for name in ("many", "medium", "few")] == [
        [False, True],
        [False, False],
        [True, False],
    ]


def test_shot_accuracy_is_the_mean_of_class_accuracies() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    predictions = np.array([0, 0, 0, 1, 1, 0, 0])
    result = shot_accuracy(predictions, labels, [500, 50, 5])
    assert result.many == 0.75
    assert result.medium == 0.5
    assert result.few == 0.0
    assert result.class_mean == pytest.approx((0.75 + 0.5 + 0) / 3)
    assert result.all == pytest.approx(4 / 7)
    moved = shot_accuracy(predictions, labels, [500, 50, 5], many=40, few=5)
    assert (moved.many, moved.medium, moved.few) == (pytest.approx(0.625), 0.0, None)


def test_an_empty_group_is_none() -> None:
    result = shot_accuracy([0, 1], [0, 1], [500, 400])
    assert (result.many, result.medium, result.few) == (1.0, None, None)


def test_a_class_without_samples_does_not_count() -> None:
    result = shot_accuracy([0, 0], [0, 0], [500, 400])
    assert result.many == 1.0
    assert result.class_mean == 1.0


@pytest.mark.parametrize(
    ("correct", "labels", "message"),
    [
        ([True], [0, 1], "^correct, labels: .*\\(1,\\).*\\(2,\\)"),
        ([], [], "^labels: "),
        ([True], [3], "^labels: .*\\b3\\b.*\\b0 to 2\\b"),
        ([True], [-1], "^labels: .*-1\\b.*\\b0 to 2\\b"),
    ],
)
def test_bad_labels_are_refused(correct: list[bool], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_hits(correct, labels, 3)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([0], [0, 1], r"^predictions, labels: .*\(1,\).*\(2,\)"),  # NumPy would compare each label with the one
        (0, [0, 1], r"^predictions, labels: .*\(\).*\(2,\)"),
        ([0, 1], [0, 1.5], "^labels: .*whole"),
        ([0, float("nan")], [0, 1], "^predictions: .*whole"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(predictions: Any, labels: Any, message: str) -> None:
    for measure in (shot_accuracy, class_precision, macro_f1):
        classes: Any = [5, 5, 5] if measure is shot_accuracy else 3
        with pytest.raises(ValueError, match=message):
            measure(predictions, labels, classes)
    assert shot_accuracy([0.0, 1.0], [0, 1], [5, 5]).all == 1.0  # as files of numbers are read


@pytest.mark.parametrize("prediction", [-1, 3])
def test_predictions_of_no_class_have_no_precision(prediction: int) -> None:
    for measure in (class_precision, macro_f1):
        with pytest.raises(ValueError, match=rf"^predictions: .*{prediction}\b.*0 to 2"):
            measure([0, prediction], [0, 1], 3)
    assert shot_accuracy([0, prediction], [0, 1], [5, 5, 5]).all == 0.5  # it is wrong


def test_overlapping_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^few: got 20\b.*\bmany=10\b"):
        shot_groups([1], many=10, few=20)


def test_f1_and_precision_agree_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 7, 200), rng.integers(0, 6, 200)
    precision = class_precision(predictions, labels, 7)
    np.testing.assert_allclose(
        precision[:6], sklearn.precision_score(labels, predictions, average=None, labels=range(6))
    )
    assert np.isnan(precision[6])
    expected = sklearn.f1_score(labels, predictions, average="macro", zero_division=0)
    assert macro_f1(predictions, labels, 7) == pytest.approx(expected)


def test_f1_counts_only_classes_with_samples() -> None:
    # Class 0: 2 of 3 predictions right, all found: 4 / 5; class 1: 1 of 2 found: 2 / 3; class 2 has no sample
    assert macro_f1([0, 0, 1, 0], [0, 0, 1, 1], 3) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert macro_f1([0, 0], [0, 0], 1) == 1.0
