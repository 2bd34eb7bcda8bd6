"""Accuracies and their intervals."""

import numpy as np
import pytest

from fastlt.metrics import class_hits, class_mean_intervals, shot_accuracy, shot_groups, wilson_interval


def test_groups_at_the_boundaries() -> None:
    groups = shot_groups([19, 20, 100, 101])
    assert groups["few"].tolist() == [True, False, False, False]
    assert groups["medium"].tolist() == [False, True, True, False]
    assert groups["many"].tolist() == [False, False, False, True]


def test_shot_accuracy_is_the_mean_of_class_accuracies() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    predictions = np.array([0, 0, 0, 1, 1, 0, 0])
    result = shot_accuracy(predictions, labels, [500, 50, 5])
    assert result.many == 0.75
    assert result.medium == 0.5
    assert result.few == 0.0
    assert result.class_mean == pytest.approx((0.75 + 0.5 + 0) / 3)
    assert result.all == pytest.approx(4 / 7)


def test_an_empty_group_is_none() -> None:
    result = shot_accuracy([0, 1], [0, 1], [500, 400])
    assert (result.many, result.medium, result.few) == (1.0, None, None)


def test_a_class_without_samples_does_not_count() -> None:
    result = shot_accuracy([0, 0], [0, 0], [500, 400])
    assert result.many == 1.0
    assert result.class_mean == 1.0


@pytest.mark.parametrize(
    ("correct", "labels", "message"),
    [([True], [0, 1], "shapes"), ([], [], "no samples"), ([True], [3], "from 3 to 3"), ([True], [-1], "from -1")],
)
def test_bad_labels_are_refused(correct: list[bool], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_hits(correct, labels, 3)


def test_overlapping_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        shot_groups([1], many=10, few=20)


def test_wilson_interval_known_values() -> None:
    # Agresti and Coull (1998) give 0.000-0.278 for 0 of 10 successes
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson_interval(10, 10)
    assert (low, high) == pytest.approx((1 - 0.2775, 1.0), abs=1e-4)


def test_wilson_interval_covers_at_95_percent() -> None:
    rng = np.random.default_rng(0)
    hits = rng.binomial(200, 0.3, 4000)
    covered = [low <= 0.3 <= high for low, high in (wilson_interval(int(k), 200) for k in hits)]
    assert 0.94 < np.mean(covered) < 0.965


def test_bootstrap_is_stratified_and_matches_the_binomial_spread() -> None:
    totals = np.full(50, 40)
    hits = np.full(50, 20)
    masks = {"all": np.ones(50, dtype=bool), "none": np.zeros(50, dtype=bool)}
    intervals = class_mean_intervals(hits, totals, masks, num_resamples=4000)
    assert intervals["none"] is None
    low, high = intervals["all"]
    spread = 1.96 * np.sqrt(0.25 / 40 / 50)
    assert (low, high) == pytest.approx((0.5 - spread, 0.5 + spread), abs=0.002)


def test_bootstrap_gives_a_sure_class_no_spread() -> None:
    intervals = class_mean_intervals(np.array([10, 0]), np.array([10, 0]), {"all": np.array([True, True])})
    assert intervals["all"] == (1.0, 1.0)
