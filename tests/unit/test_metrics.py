"""Accuracies and their intervals."""

import numpy as np
import pytest

from fastlt.metrics import (
    class_hits,
    class_mean_intervals,
    class_precision,
    macro_f1,
    paired_difference,
    resampled_means,
    shot_accuracy,
    shot_groups,
    weighted_class_accuracy,
    wilson_interval,
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


def test_overlapping_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^few: got 20\b.*\bmany=10\b"):
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


def test_weighted_accuracy_by_hand_and_without_classes() -> None:
    hits, totals = np.array([10, 5, 0]), np.array([10, 10, 0])
    value, (low, high) = weighted_class_accuracy(hits, totals, [0.6, 0.2, 0.2])
    assert value == pytest.approx(0.875)
    assert low < value < high
    assert weighted_class_accuracy(hits, totals, [1, 0, 0]) == (1.0, (1.0, 1.0))
    assert weighted_class_accuracy(hits, totals, [0, 0, 1]) is None


def test_weighted_interval_has_the_spread_of_binomials() -> None:
    hits, totals = np.array([200, 900]), np.array([400, 3600])
    value, (low, high) = weighted_class_accuracy(hits, totals, [1, 3], num_resamples=20_000)
    spread = 1.96 * np.sqrt(0.25**2 * 0.25 / 400 + 0.75**2 * 0.1875 / 3600)
    assert value == pytest.approx(0.25 * 0.5 + 0.75 * 0.25)
    assert (low, high) == pytest.approx((value - spread, value + spread), abs=0.001)


def test_paired_difference_by_hand() -> None:
    labels = np.array([0] * 4 + [1] * 2)
    a, b = np.array([1, 1, 1, 0, 1, 0], bool), np.array([1, 0, 0, 0, 1, 1], bool)
    masks = {"many": np.array([True, False]), "few": np.array([False, True]), "medium": np.zeros(2, bool)}
    differences = paired_difference(a, b, labels, masks)
    assert differences["medium"] is None
    assert differences["many"][0] == pytest.approx(0.5)
    assert differences["few"][0] == pytest.approx(-0.5)
    assert differences["all"][0] == pytest.approx(1 / 6)
    unseen = {"many": np.array([True, False, False]), "few": np.array([False, False, True])}  # of a class not here
    assert paired_difference(a, b, labels, unseen)["few"] is None
    same = paired_difference(a, a, labels, masks)
    assert same["all"] == same["many"] == (0.0, (0.0, 0.0))
    with pytest.raises(ValueError, match=r"^hits_a, hits_b: .*\(6,\).*\(3,\)"):
        paired_difference(a, b[:3], labels, masks)


def test_paired_interval_matches_resampling_images_and_is_narrower_than_unpaired() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(10), 30)
    b = rng.random(300) < 0.6
    a = np.where(rng.random(300) < 0.1, ~b, b)
    masks = {"class_mean": np.ones(10, bool)}
    _, (low, high) = paired_difference(a, b, labels, masks, num_resamples=4000)["class_mean"]
    change = (a.astype(int) - b).reshape(10, 30)
    drawn = rng.integers(0, 30, (4000, 10, 30))
    means = np.take_along_axis(change[None], drawn, 2).mean((1, 2))
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.005)
    alone = [class_mean_intervals(*class_hits(hits, labels, 10), masks)["class_mean"] for hits in (a, b)]
    unpaired = np.hypot(*(above - below for below, above in alone))
    assert high - low < 0.7 * unpaired


def test_paired_interval_where_each_is_right_where_the_other_is_wrong() -> None:
    labels, a = np.zeros(400, int), np.arange(400) < 240
    value, (low, high) = paired_difference(a, ~a, labels, {}, num_resamples=20_000)["all"]
    spread = 1.96 * np.sqrt((1 - 0.2**2) / 400)  # of a mean of 400 values of +1 (0.6) and -1 (0.4)
    assert value == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.2 - spread, 0.2 + spread), abs=0.006)


def test_blocks_of_resamples_change_nothing_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    hits, totals = np.array([6, 3]), np.array([10, 10])
    whole = weighted_class_accuracy(hits, totals, [1, 1])
    monkeypatch.setattr("fastlt.metrics.BLOCK", 64)
    pieces = weighted_class_accuracy(hits, totals, [1, 1])
    assert whole[0] == pieces[0]
    assert whole[1] == pytest.approx(pieces[1], abs=0.03)
    drawn = resampled_means(lambda rng, rows: rng.random((rows, 2)), np.eye(2), num_resamples=100, seed=0)
    assert drawn.shape == (100, 2)
