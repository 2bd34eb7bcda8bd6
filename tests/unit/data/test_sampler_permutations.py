"""The permutations that are never stored: one to one, uniform, and without visible structure."""

import itertools

import numpy as np
import pytest
from scipy.stats import chi2, norm

from fastlt import _C
from fastlt.data import LongTailSampler


def permutations(n, count, seed=0):
    """`count` permutations of n, the epochs of n samples: int64 [count, n]."""
    sampler = LongTailSampler(np.zeros(n, dtype=np.int64), batch_size=n, seed=seed)
    return sampler.draw(0, count * n).reshape(count, n)


def assert_uniform(cells, num_cells):
    """Chi-square of equally likely cells, both tails: too even is as wrong as too uneven."""
    observed = np.bincount(np.asarray(cells).ravel(), minlength=num_cells)
    assert len(observed) == num_cells
    expected = observed.sum() / num_cells
    p = chi2.sf(((observed - expected) ** 2 / expected).sum(), num_cells - 1)
    assert 1e-4 < p < 1 - 1e-4


def assert_normal(z):
    assert norm.sf(abs(z)) > 1e-4


@pytest.mark.parametrize(
    "n", [1, 2, 3, 19, 20, 21, 22, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 512, 1000, 2048, 2049, 4097, 99_991]
)
def test_every_value_occurs_once(n):
    for permutation in permutations(n, 5):
        np.testing.assert_array_equal(np.sort(permutation), np.arange(n))


@pytest.mark.parametrize("n", [3, 4, 5])
def test_all_orders_are_equally_likely(n):
    orders = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    drawn = permutations(n, 500 * len(orders))
    assert_uniform([orders[tuple(order)] for order in drawn.tolist()], len(orders))


@pytest.mark.parametrize(
    ("n", "count"),
    [
        (13, 100_000),
        (20, 100_000),
        (21, 400_000),
        (25, 200_000),
        (31, 200_000),
        (40, 200_000),
        (100, 100_000),
        (129, 60_000),
        (1000, 20_000),
    ],
)
def test_no_structure_is_visible(n, count):
    p = permutations(n, count)
    for place in (0, n // 2, n - 1):
        assert_uniform(p[:, place], n)
    if n < 50:
        for other in (1, n // 2, n - 1):
            pairs = p[:, 0] * (n - 1) + p[:, other] - (p[:, other] > p[:, 0])
            assert_uniform(pairs, n * (n - 1))
    for lag in (1, 2, 4, 8):
        assert_uniform((p[:, lag:] - p[:, :-lag]) % n - 1, n - 1)
    fixed = (p == np.arange(n)).sum(axis=1)
    assert_normal((fixed.mean() - 1) * np.sqrt(count))
    assert_normal((fixed.var() - 1) / np.sqrt(3 / count))
    # the product of neighbours: its mean over all permutations is known, and its spread estimated
    centred = p - (n - 1) / 2
    products = (centred[:, 1:] * centred[:, :-1]).mean(axis=1)
    expected = -(n + 1) / 12
    assert_normal((products.mean() - expected) / (products.std() / np.sqrt(count)))
    assert_normal(np.corrcoef(p[:-1, 0], p[1:, 0])[0, 1] * np.sqrt(count))


@pytest.mark.parametrize(
    ("n", "count"), [(33, 500_000), (129, 300_000), (200, 300_000), (257, 300_000), (513, 300_000)]
)
def test_neighbours_keep_their_distance_no_more_often_than_by_chance(n, count):
    kept = np.zeros(2, dtype=np.int64)
    for seed in range(20):
        p = permutations(n, count // 20, seed=seed).astype(np.int16)
        kept += [np.count_nonzero(p[:, lag:] - p[:, :-lag] == lag) for lag in (1, 2)]
    for lag in (1, 2):
        expected = count * (n - lag) ** 2 / (n * (n - 1))
        assert_normal((kept[lag - 1] - expected) / np.sqrt(expected))


@pytest.mark.parametrize("n", [21, 50, 100])
def test_odd_permutations_are_as_likely_as_even_ones(n):
    p = permutations(n, 4000)
    inversions = sum((p[:, i : i + 1] > p[:, i + 1 :]).sum(axis=1) for i in range(n - 1))
    assert_uniform(inversions % 2, 2)


def test_seeds_and_cycles_give_unrelated_permutations():
    p = np.stack([permutations(1000, 1, seed=seed)[0] for seed in range(300)])
    assert_uniform(p[:, 0], 1000)
    correlations = [np.corrcoef(p[i], p[i + 1])[0, 1] for i in range(299)]
    assert_normal(np.mean(correlations) * np.sqrt(299 * 999))


@pytest.mark.parametrize("n", [2**31 - 1, 2**31, 2**31 + 11, 2**32 + 5, 10**12 + 39, 2**45])
def test_permutations_of_more_than_fit_32_bits(n):
    places = np.concatenate([np.arange(100_000), n - 1 - np.arange(100_000)])
    values = _C.permutation(n, seed=3, cycle=7, places=places)
    assert values.min() >= 0
    assert values.max() < n
    assert len(np.unique(values)) == len(values)
    assert_uniform((values / n * 512).astype(np.int64), 512)
    assert_normal(np.corrcoef(values[:99_999], values[1:100_000])[0, 1] * np.sqrt(99_999))


def test_a_cycle_beyond_32_bits_has_a_permutation_of_its_own():
    places = np.arange(1000)
    drawn = [_C.permutation(1000, seed=3, cycle=cycle, places=places) for cycle in (5, 2**32 + 5, 2**40 + 5)]
    for a, b in itertools.combinations(drawn, 2):
        assert (a == b).sum() < 10
