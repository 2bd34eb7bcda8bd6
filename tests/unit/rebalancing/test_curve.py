"""The exact curve against counting at every tau, and the choice of a best tau."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastlt import _C
from fastlt.config import GROUPS
from fastlt.rebalancing.curve import TauCurve, prior_curve, tau_curve

INF = np.inf


def curve(low: list[float], high: list[float], labels: list[int], counts: list[int]) -> TauCurve:
    return TauCurve(
        low=np.array(low, float), high=np.array(high, float), labels=np.array(labels), class_counts=np.array(counts)
    )


@pytest.fixture
def split() -> tuple[SimpleNamespace, torch.Tensor, torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    counts = np.geomspace(500, 3, 30).astype(int)
    weight = torch.randn(30, 16, generator=generator) * torch.logspace(0, -1, 30)[:, None]
    labels = torch.randint(0, 29, (600,), generator=generator)  # the last class is not in the split
    features = weight[labels] / weight[labels].norm(dim=1, keepdim=True) * 2
    features += 0.4 * torch.randn(600, 16, generator=generator)
    return SimpleNamespace(weight=weight, bias=torch.randn(30, generator=generator)), features, labels, counts


@pytest.mark.parametrize("kind", ["tau", "prior"])
def test_values_are_those_of_counting(kind: str, split: tuple) -> None:
    head, features, labels, counts = split
    got = (tau_curve if kind == "tau" else prior_curve)(head, features, labels, counts)
    for tau in (0.013, 0.517, 1.003, 1.771):
        if kind == "tau":
            scores = (features @ head.weight.T) / head.weight.norm(dim=1) ** tau
        else:
            scores = features @ head.weight.T + head.bias - tau * torch.tensor(np.log(counts / counts.sum()))
        right = (scores.argmax(1) == labels).double()
        classes = {c: right[labels == c].mean().item() for c in range(29)}
        expected = {
            "all": right.mean().item(),
            "class_mean": np.mean(list(classes.values())),
            "many": np.mean([v for c, v in classes.items() if counts[c] > 100]),
            "medium": np.mean([v for c, v in classes.items() if 20 <= counts[c] <= 100]),
            "few": np.mean([v for c, v in classes.items() if counts[c] < 20]),
        }
        expected["harmonic_mean"] = 3 / sum(1 / expected[group] for group in ("many", "medium", "few"))
        for group, value in expected.items():
            assert got.value(tau, group) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("label", [0, 69])
@pytest.mark.parametrize("at", [0, 69, 30])
def test_what_is_not_a_number_is_never_right(log: bool, label: int, at: int) -> None:
    logits, slope = np.full((1, 70), 0.5, np.float32), np.zeros(70, np.float32)
    logits[0, label] = 1
    low, high = np.empty(1, np.float32), np.empty(1, np.float32)
    _C.interval_bounds(logits, np.array([label]), slope, log=log, low=low, high=high)
    assert (low[0], high[0]) == (-INF, INF)
    logits[0, at] = np.nan
    _C.interval_bounds(logits, np.array([label]), slope, log=log, low=low, high=high)
    assert (low[0], high[0]) == (INF, -INF)


def test_logits_beyond_what_a_line_can_hold_count_as_equal() -> None:
    low, high = np.empty(2, np.float32), np.empty(2, np.float32)
    logits = np.array([[1e38, 3e38], [3e38, 1e38]], np.float32)
    _C.interval_bounds(logits, np.array([0, 1]), np.zeros(2, np.float32), log=False, low=low, high=high)
    assert low.tolist() == [-INF, INF]  # of equals the first wins
    assert high.tolist() == [INF, -INF]


def test_a_logit_too_small_for_a_line_counts_as_zero() -> None:
    low, high = np.empty(2, np.float32), np.empty(2, np.float32)
    logits = np.array([[1e-40, 1e-30], [1e-40, -1e-40]], np.float32)
    slope = np.array([1, 0], np.float32)
    _C.interval_bounds(logits, np.array([0, 0]), slope, log=True, low=low, high=high)
    assert low.tolist() == [INF, -INF]
    assert high.tolist() == [-INF, INF]


def test_logarithms_are_right_to_the_last_places() -> None:
    values = np.geomspace(1e-36, 1e36, 4001, dtype=np.float32)
    values = values[np.abs(values - 1) > 1e-3]
    logits = np.stack([values, np.ones_like(values)], axis=1)
    low, high = np.empty_like(values), np.empty_like(values)
    slope = np.array([1, 0], np.float32)
    _C.interval_bounds(logits, np.zeros(len(values), np.int64), slope, log=True, low=low, high=high)
    assert (low == -INF).all()
    np.testing.assert_allclose(high, np.log2(values.astype(np.float64)), rtol=3e-7)


def test_steps_and_values_agree_and_end_outside(split: tuple) -> None:
    got = tau_curve(*split)
    assert got.groups == GROUPS
    for group in GROUPS:
        edges, values = got.steps(group)
        assert (np.diff(edges) > 0).all()
        middles = np.concatenate([[edges[0] - 1], (edges[1:] + edges[:-1]) / 2, [edges[-1] + 1]])
        np.testing.assert_allclose(got.value(middles, group), values, atol=1e-12)


def test_best_is_the_middle_of_the_widest_best_plateau() -> None:
    # Two right on (0.5, 0.6) and on (1.0, 1.4); three nowhere but at the point 0.6, which is no interval.
    got = curve([0.5, 0.5, 0.6, 1.0, 1.0], [0.6, 0.6, 0.61, 1.4, 1.4], [0, 1, 0, 1, 0], [500, 3])
    choice = got.best("all")
    assert choice == pytest.approx((1.2, 1.0, 1.4, 0.4))
    assert got.best("all", high=0.9) == pytest.approx((0.55, 0.5, 0.6, 0.4))


def test_equal_neighbours_are_one_plateau_and_the_range_cuts_it() -> None:
    got = curve([-INF, 0.3, 1.5], [0.3, 1.5, INF], [0, 0, 0], [200])
    assert got.best("all") == pytest.approx((1.0, 0.0, 2.0, 1 / 3))
    assert got.best("many", low=0.5, high=0.7) == pytest.approx((0.6, 0.5, 0.7, 1 / 3))


def test_a_single_image_more_is_better() -> None:
    got = curve([0.0] * 400 + [0.3], [2.0] * 400 + [0.4], [0] * 401, [200])
    assert got.best("all") == pytest.approx((0.35, 0.3, 0.4, 1.0))


def test_groups_have_the_thresholds_that_are_asked_for(split: tuple) -> None:
    _, _, labels, counts = split
    for make in (tau_curve, prior_curve):
        plain, moved = make(*split), make(*split, many=200, few=50)
        right = (moved.low < 0.7) & (moved.high > 0.7)
        by_class = np.array([right[labels.numpy() == c].mean() for c in range(29)])
        for got, many, few in ((plain, 100, 20), (moved, 200, 50)):
            assert got.value(0.7, "many") == pytest.approx(by_class[counts[:29] > many].mean())
            assert got.value(0.7, "few") == pytest.approx(by_class[counts[:29] < few].mean())


def test_never_right_and_the_open_ends() -> None:
    got = curve([INF, 0.2], [-INF, 0.8], [0, 0], [200])
    assert got.value([0.2, 0.5, 0.8]).tolist() == pytest.approx([0.0, 0.5, 0.0])
    nobody = curve([INF], [-INF], [0], [200])
    assert nobody.best() == pytest.approx((1.0, 0.0, 2.0, 0.0))


def test_harmonic_mean_prefers_balance() -> None:
    got = curve([0.0, 1.0, 1.0], [2.0, 2.0, 1.2], [0, 1, 1], [500, 3])
    assert got.best("harmonic_mean") == pytest.approx((1.1, 1.0, 1.2, 1.0))
    assert got.value(0.5, "harmonic_mean") == 0.0


def test_bands_cover_the_value_and_repeat(split: tuple) -> None:
    got = tau_curve(*split)
    taus = [0.1, 0.5, 1.0]
    lower, upper = got.band(taus, "few")
    assert (lower <= got.value(taus, "few")).all()
    assert (got.value(taus, "few") <= upper).all()
    again = got.band(taus, "few")
    np.testing.assert_array_equal(lower, again[0])
    narrow = got.band(taus, "few", level=0.5)
    assert (narrow[1] - narrow[0] <= upper - lower).all()


def test_bands_are_as_wide_as_their_level_says() -> None:
    got = curve([0.0] * 400, [2.0] * 200 + [0.5] * 200, [0] * 400, [500])
    for level, deviations in ((0.95, 1.96), (0.6827, 1.0)):
        (lower,), (upper,) = got.band([1.0], level=level)
        assert (upper - lower) / 2 == pytest.approx(deviations * 0.5 / 20, rel=0.07)


def test_bands_have_a_width_where_every_class_is_all_right_or_all_wrong() -> None:
    got = curve([0.0] * 4 + [INF] * 4, [2.0] * 4 + [-INF] * 4, [0] * 4 + [1] * 4, [500, 3])
    for group in ("all", "class_mean", "many", "few", "harmonic_mean"):
        (lower,), (upper,) = got.band([1.0], group)
        assert 0 <= lower <= got.value(1.0, group) <= upper <= 1
        assert upper - lower > 0.2


def test_the_band_of_the_harmonic_mean_covers() -> None:
    rng = np.random.default_rng(0)
    accuracy, counts = np.repeat([0.9, 0.7, 0.3], 10), [500] * 10 + [50] * 10 + [5] * 10
    labels, covered = np.repeat(np.arange(30), 6), []
    for _ in range(400):
        high = np.where(rng.random(180) < accuracy[labels], 2.0, -INF)
        (lower,), (upper,) = curve([0.0] * 180, high.tolist(), labels.tolist(), counts).band([1.0], "harmonic_mean")
        covered.append(lower <= 3 / (1 / 0.9 + 1 / 0.7 + 1 / 0.3) <= upper)
    assert 0.93 <= np.mean(covered) <= 0.98


def test_errors_name_the_argument(split: tuple) -> None:
    head, features, labels, counts = split
    with pytest.raises(ValueError, match=r"^class_counts\b(?=.*\b30 integers).*\[5\]"):
        tau_curve(head, features, labels, counts[:5])
    with pytest.raises(ValueError, match=r"^class_counts\b.*class 26\b"):
        prior_curve(head, features, labels, np.maximum(counts - 5, 0))
    with pytest.raises(ValueError, match=r"^labels\b.*got 30\b"):
        tau_curve(head, features, labels + 2, counts)
    got = tau_curve(head, features, labels, counts)
    with pytest.raises(ValueError, match=r"^group\b.*'some'"):
        got.value(1.0, "some")
    with pytest.raises(ValueError, match=r"^low\b.*got 1\.0"):
        got.best(low=1.0, high=1.0)
    with pytest.raises(ValueError, match=r"^tau\b.*got (NaN|nan)"):
        got.value(float("nan"))
    with pytest.raises(ValueError, match=r"^group: got few\b.*all, class_mean, many"):
        curve([0.0], [1.0], [0], [500]).best("few")
