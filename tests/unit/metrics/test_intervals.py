"""Intervals of mean class accuracies and of paired differences: how often they cover, and what they are by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlt.metrics import (
    class_hits,
    class_mean_intervals,
    mean_interval,
    paired_difference,
    weighted_class_accuracy,
    wilson_interval,
)
from fastlt.metrics.intervals import difference_interval

REPEATS = 4000


def covers(ends: tuple[np.ndarray, np.ndarray] | None, truth: float | np.ndarray) -> float:
    assert ends is not None
    return float(((ends[0] <= truth) & (truth <= ends[1])).mean())


def test_wilson_interval_known_values() -> None:
    # Agresti and Coull (1998) give 0.000-0.278 for 0 of 10 successes
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((1 - 0.2775, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match=r"^num_hits: got 3 of 2\b"):
        wilson_interval(3, 2)


def test_wilson_interval_covers_at_95_percent() -> None:
    rng = np.random.default_rng(0)
    hits = rng.binomial(200, 0.3, 4000)
    covered = [low <= 0.3 <= high for low, high in (wilson_interval(int(k), 200) for k in hits)]
    assert 0.94 < np.mean(covered) < 0.965


@pytest.mark.parametrize("images", [1, 2, 3, 20])
@pytest.mark.parametrize("num_classes", [20, 300])
@pytest.mark.parametrize("spread", ["equal", "even", "tail"])
def test_mean_accuracies_are_covered_from_one_image_a_class_up(spread: str, num_classes: int, images: int) -> None:
    rng = np.random.default_rng(1)
    rank = (np.arange(num_classes) + 0.5) / num_classes
    level = rng.uniform(0.4, 0.8, (REPEATS, 1))  # averages over the steps of few images' accuracies
    accuracy = {"equal": level + 0 * rank, "even": rank + 0 * level, "tail": level + 0.2 - 0.4 * rank}[spread]
    hits = rng.binomial(images, accuracy)
    covered = covers(mean_interval(hits, np.full(num_classes, images), np.ones(num_classes)), accuracy.mean(1))
    assert 0.93 < covered < 0.99


@pytest.mark.parametrize("images", [1, 2, 3, 20])
@pytest.mark.parametrize("spread", ["equal", "tail"])
def test_paired_differences_are_covered_from_one_image_a_class_up(spread: str, images: int) -> None:
    rank = (np.arange(200) + 0.5) / 200
    wins, losses = {"equal": (0.2 + 0 * rank, 0.1 + 0 * rank), "tail": (0.4 * rank, 0.15 - 0.1 * rank)}[spread]
    rng = np.random.default_rng(2)
    only_a = rng.binomial(images, wins, (REPEATS, 200))
    only_b = rng.binomial(images - only_a, losses / (1 - wins))
    both = rng.binomial(images - only_a - only_b, 0.6)
    ends = difference_interval(only_a, only_b, both, np.full(200, images), np.ones(200))
    assert 0.93 < covers(ends, float((wins - losses).mean())) < 0.98


def test_uneven_classes_under_a_target_are_covered() -> None:
    rank = (np.arange(100) + 0.5) / 100
    totals = np.maximum(1, np.round(20 * (1 - rank) ** 2)).astype(int)  # the tail has one image a class
    accuracy, weights = 0.95 - 0.7 * rank, 50**-rank
    rng = np.random.default_rng(3)
    for shares in (weights, weights[::-1], np.ones(100)):
        ends = mean_interval(rng.binomial(totals, accuracy, (REPEATS, 100)), totals, shares)
        assert 0.93 < covers(ends, float(accuracy @ shares / shares.sum())) < 0.98


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images that A and B alone have right and images of a few classes, with weights; some image has weight."""
    totals = np.array(draw(st.lists(st.integers(0, 30), min_size=1, max_size=6)))
    only_a = np.array([draw(st.integers(0, int(total))) for total in totals])
    only_b = np.array([draw(st.integers(0, int(rest))) for rest in totals - only_a])
    weights = np.array([draw(st.floats(0, 1e3)) for _ in totals])
    totals[0], weights[0] = max(totals[0], 1), max(weights[0], 1e-3)
    return only_a, only_b, totals, weights


@given(outcomes())
def test_no_interval_has_zero_width_and_each_holds_its_estimate(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    hits, _, totals, weights = drawn
    accuracy, (low, high) = weighted_class_accuracy(hits, totals, weights)
    assert 0 <= low <= accuracy + 1e-12
    assert accuracy - 1e-12 <= high <= 1
    assert high - low > 1 / (totals.sum() + 4)


@given(outcomes())
def test_paired_intervals_mirror_each_other_and_have_a_width(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    only_a, only_b, totals, weights = drawn
    both = (totals - only_a - only_b) // 2
    low, high = difference_interval(only_a, only_b, both, totals, weights)
    back = difference_interval(only_b, only_a, both, totals, weights)
    assert (-high, -low) == pytest.approx(back, abs=1e-12)
    seen = totals > 0
    share = weights[seen] / weights[seen].sum()
    difference = ((only_a - only_b)[seen] / totals[seen]) @ share
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    assert high - low > 1 / (totals.sum() + 4)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_one_class_has_wilsons_interval(drawn: tuple[int, int]) -> None:
    hits, total = drawn
    got = class_mean_intervals(np.array([hits, 0]), np.array([total, 0]), {"few": np.ones(2, bool)})["few"]
    assert got == pytest.approx(wilson_interval(hits, total))


def test_many_images_a_class_have_the_spread_of_binomials() -> None:
    masks = {"all": np.ones(50, dtype=bool), "none": np.zeros(50, dtype=bool)}
    intervals = class_mean_intervals(np.full(50, 200), np.full(50, 400), masks)
    assert intervals["none"] is None
    spread = 1.96 * np.sqrt(0.25 / 400 / 50)
    assert intervals["all"] == pytest.approx((0.5 - spread, 0.5 + spread), abs=1e-4)
    hits, totals = np.array([200, 900]), np.array([400, 3600])
    value, ends = weighted_class_accuracy(hits, totals, [1, 3])
    spread = 1.96 * np.sqrt(0.25**2 * 0.25 / 400 + 0.75**2 * 0.1875 / 3600)
    assert value == pytest.approx(0.25 * 0.5 + 0.75 * 0.25)
    assert ends == pytest.approx((value - spread, value + spread), abs=1e-3)


def test_weighted_accuracy_by_hand_and_without_classes() -> None:
    hits, totals = np.array([10, 5, 0]), np.array([10, 10, 0])
    value, (low, high) = weighted_class_accuracy(hits, totals, [0.6, 0.2, 0.2])
    assert value == pytest.approx(0.875)
    assert low < value < high
    assert weighted_class_accuracy(hits, totals, [1, 0, 0]) == (1.0, pytest.approx(wilson_interval(10, 10)))
    assert weighted_class_accuracy(hits, totals, [0, 0, 1]) is None


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
    with pytest.raises(ValueError, match=r"^hits_a, hits_b: .*\(6,\).*\(3,\)"):
        paired_difference(a, b[:3], labels, masks)


def test_paired_interval_is_narrower_than_unpaired_and_right_where_each_is_wrong_for_the_other() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(10), 30)
    b = rng.random(300) < 0.6
    a = np.where(rng.random(300) < 0.1, ~b, b)
    masks = {"class_mean": np.ones(10, bool)}
    _, (low, high) = paired_difference(a, b, labels, masks)["class_mean"]
    alone = [class_mean_intervals(*class_hits(hits, labels, 10), masks)["class_mean"] for hits in (a, b)]
    assert high - low < 0.7 * np.hypot(*(above - below for below, above in alone))
    a = np.arange(4000) < 2400
    spread = 1.96 * np.sqrt((1 - 0.2**2) / 4000)  # of a mean of values of +1 (0.6) and -1 (0.4)
    for labels, abs_ in ((np.zeros(4000, int), 1e-3), (np.arange(4000), 3e-3)):  # one class; one image a class
        value, ends = paired_difference(a, ~a, labels, {})["all"]
        assert ends == pytest.approx((value - spread, value + spread), abs=abs_)


def test_equal_classifiers_differ_by_no_more_than_independent_ones() -> None:
    totals = np.array([50, 50, 50, 50, 41, 26, 15, 9, 6, 3, 2, 1])
    hits, none, even = totals // 2, np.zeros(12, dtype=int), np.ones(12)
    low, high = difference_interval(none, none, hits, totals, even)
    ends = mean_interval(hits, totals, even)
    assert ends is not None
    assert 0 < high - low <= 1.01 * np.sqrt(2) * (ends[1] - ends[0])


@pytest.mark.parametrize(
    ("hits", "weights", "message"),
    [
        ([3, 1], [1, 1], "^hits: got 50 to 150 %"),
        ([-1, 1], [1, 1], "^hits: got -50 to 50 %"),
        ([1, 1], [-1, 2], "^weights: got -1 to 2;"),
        ([1, 1], [np.nan, 1], "^weights: got nan "),
        ([1, 1], [np.inf, 1], "^weights: got 1 to inf;"),
    ],
)
def test_what_no_mean_has_is_refused(hits: list[int], weights: list[float], message: str) -> None:
    for measure in (mean_interval, weighted_class_accuracy):
        with pytest.raises(ValueError, match=message):
            measure(np.array(hits), np.array([2, 2]), weights)
