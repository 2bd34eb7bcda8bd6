"""The samplings' laws: exact counts where they are exact, chi-square at fixed seeds where they are not."""

import numpy as np
import pytest
from scipy.stats import chi2

from fastlt.data import LongTailSampler

SHAPES = {
    "imagenet_lt": (1000, 1280, 5, 115_846),
    "places_lt": (365, 4980, 5, 62_500),
    "inat2018": (8142, 1000, 2, 437_513),
}


def long_tailed_counts(num_classes, most, fewest, total):
    """Counts from `most` to `fewest` that sum to `total`: geometric in a power of the rank, found by bisection."""
    rank = np.linspace(0, 1, num_classes)
    low, high = 0.01, 10.0
    for _ in range(60):
        power = (low + high) / 2
        counts = np.round(most * (fewest / most) ** rank**power).astype(np.int64)
        low, high = (power, high) if counts.sum() < total else (low, power)
    for c in np.argsort(-counts[1:-1])[: abs(total - counts.sum())] + 1:
        counts[c] += np.sign(total - counts.sum())
    assert counts.sum() == total
    assert (counts.max(), counts.min()) == (most, fewest)
    return counts


@pytest.fixture(scope="module", params=SHAPES)
def labels(request):
    counts = long_tailed_counts(*SHAPES[request.param])
    return np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))


def p_value(observed, expected):
    """Chi-square p-value, cells of few expected counts merged."""
    order = np.argsort(expected)
    groups = np.minimum(np.cumsum(expected[order]) // 10, 1e9).astype(int)
    observed, expected = (np.bincount(groups, x[order]) for x in (observed, expected))
    kept = expected > 0
    observed, expected = observed[kept], expected[kept]
    return chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1)


def assert_classes_follow(labels, ids, probabilities):
    observed = np.bincount(labels[ids], minlength=len(probabilities))
    assert p_value(observed, probabilities * len(ids)) > 1e-4


def assert_uniform_within_classes(labels, ids):
    """Which eighth of its class an image comes from."""
    counts = np.bincount(labels)
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    eighth = rank * 8 // counts[labels]
    share = np.zeros((len(counts), 8))
    np.add.at(share, (labels, eighth), 1)
    share /= counts[:, None]
    expected = (np.bincount(labels[ids], minlength=len(counts))[:, None] * share).sum(axis=0)
    assert p_value(np.bincount(eighth[ids], minlength=8).astype(float), expected) > 1e-4


def assert_image_cycles(labels, ids):
    """Each class's consecutive draws, n_c at a time, are different images."""
    counts = np.bincount(labels)
    order = np.argsort(labels[ids], kind="stable")
    ordered = ids[order]
    classes = labels[ordered]
    drawn = np.bincount(classes, minlength=len(counts))
    visit = np.arange(len(ids)) - np.repeat(np.cumsum(drawn) - drawn, drawn)
    pairs = ordered * (visit.max() + 1) + visit // counts[classes]
    assert len(np.unique(pairs)) == len(pairs)


@pytest.mark.parametrize("samples_per_class", [1, 4])
def test_class_balanced_counts_are_exact(labels, samples_per_class):
    num_classes = labels.max() + 1
    sampler = LongTailSampler(
        labels, sampling="class_balanced", batch_size=512, samples_per_class=samples_per_class, shuffle_batches=False
    )
    num_cycles = 1_500_000 // (num_classes * samples_per_class)
    ids = sampler.draw(0, num_cycles * num_classes * samples_per_class)
    cycles = labels[ids].reshape(num_cycles, num_classes, samples_per_class)
    assert (cycles == cycles[:, :, :1]).all()
    np.testing.assert_array_equal(np.sort(cycles[:, :, 0]), np.tile(np.arange(num_classes), (num_cycles, 1)))
    assert (cycles[0] != cycles[1]).any()
    assert_image_cycles(labels, ids)
    assert_uniform_within_classes(labels, ids[: len(ids) // 50])


def test_shuffled_batches_hold_the_same_samples(labels):
    options = {"sampling": "class_balanced", "batch_size": 512, "samples_per_class": 4}
    shuffled = LongTailSampler(labels, **options)
    plain = LongTailSampler(labels, shuffle_batches=False, **options)
    for step in (0, 1, 1000):
        np.testing.assert_array_equal(np.sort(shuffled.batch(step)), np.sort(plain.batch(step)))
        groups = labels[shuffled.batch(step)].reshape(-1, 4)
        assert (groups == groups[:, :1]).all(axis=1).mean() < 0.1


def test_instance_balanced_is_a_permutation_an_epoch(labels):
    sampler = LongTailSampler(labels, batch_size=500)
    epochs = [np.concatenate(list(sampler)) for _ in range(3)]
    for epoch in epochs:
        assert len(np.unique(epoch)) == len(epoch) == len(labels) // 500 * 500
        assert abs(np.corrcoef(epoch[:-1], epoch[1:])[0, 1]) < 4 / np.sqrt(len(epoch))
    assert abs(np.corrcoef(epochs[0], epochs[1])[0, 1]) < 4 / np.sqrt(len(epoch))
    np.testing.assert_array_equal(sampler.class_probabilities(), np.bincount(labels) / len(labels))


@pytest.mark.parametrize("q", ["square_root", 0.5, 0.3, -1.0, 2.0])
def test_powers_draw_classes_in_proportion(labels, q):
    counts = np.bincount(labels).astype(float)
    expected = counts ** (0.5 if q == "square_root" else q)
    expected /= expected.sum()
    sampler = LongTailSampler(labels, sampling=q, batch_size=512)
    np.testing.assert_allclose(sampler.class_probabilities(), expected, rtol=1e-12)
    ids = sampler.draw(0, 1_000_000)
    assert_classes_follow(labels, ids, expected)
    assert_uniform_within_classes(labels, ids)


def test_named_powers_are_the_named_samplings(labels):
    for name, q in (("instance_balanced", 1.0), ("class_balanced", 0), ("square_root", 0.5)):
        named, power = (LongTailSampler(labels, sampling=s, batch_size=64).draw(10**6, 1000) for s in (name, q))
        np.testing.assert_array_equal(named, power)


@pytest.mark.parametrize(("sampling", "q"), [("instance_balanced", 1.0), ("class_balanced", 0.0)])
def test_replacement_draws_independently(labels, sampling, q):
    weights = np.bincount(labels).astype(float) ** q
    ids = LongTailSampler(labels, sampling=sampling, batch_size=512, replacement=True).draw(0, 1_000_000)
    assert_classes_follow(labels, ids, weights / weights.sum())
    assert_uniform_within_classes(labels, ids)
    # birthdays: the pairs of equal neighbours are as many as chance makes them
    per_image = (weights / weights.sum() / np.bincount(labels))[labels]
    equal, expected = (ids[1:] == ids[:-1]).sum(), (per_image**2).sum() * (len(ids) - 1)
    assert abs(equal - expected) < 5 * np.sqrt(expected) + 1


def test_class_weights_draw_classes_in_proportion(labels):
    weights = np.random.default_rng(3).exponential(size=labels.max() + 1) ** 2
    weights[::7] = 0
    ids = LongTailSampler(labels, class_weights=weights, batch_size=512).draw(0, 1_000_000)
    assert_classes_follow(labels, ids, weights / weights.sum())
    assert (weights[labels[ids]] > 0).all()


@pytest.mark.parametrize("progress", ["epoch", "step"])
def test_progressively_balanced_moves_from_instances_to_classes(labels, progress):
    batch_size, num_epochs = 10_000, 5
    sampler = LongTailSampler(
        labels, sampling="progressively_balanced", batch_size=batch_size, num_epochs=num_epochs, progress=progress
    )
    num_steps, counts = num_epochs * len(sampler), np.bincount(labels)
    for epoch in (1, 3, 5):
        steps = np.arange((epoch - 1) * len(sampler), epoch * len(sampler))
        balance = steps / (num_steps - 1) if progress == "step" else np.full(len(steps), (epoch - 1) / (num_epochs - 1))
        p = (1 - balance)[:, None] * counts / counts.sum() + balance[:, None] / len(counts)
        np.testing.assert_allclose(sampler.class_probabilities(int(steps[-1])), p[-1], rtol=1e-9)
        ids = np.concatenate([sampler.batch(int(step)) for step in steps])
        assert_classes_follow(labels, ids, p.mean(axis=0))
        assert_uniform_within_classes(labels, ids)
    np.testing.assert_allclose(sampler.class_probabilities(10 * num_steps), 1 / len(counts))


def test_progress_over_a_single_epoch_stays_with_the_instances():
    sampler = LongTailSampler([0, 0, 0, 1], sampling="progressively_balanced", batch_size=2, num_epochs=1)
    np.testing.assert_array_equal(sampler.class_probabilities(1), [0.75, 0.25])


def test_an_epoch_that_the_training_cuts_short_is_one_of_its_epochs():
    """Two steps an epoch and five steps in all: the mixture arrives in the third, of one step."""
    sampler = LongTailSampler([0, 0, 0, 1], sampling="progressively_balanced", batch_size=2, num_steps=5)
    shares = [sampler.class_probabilities(step)[0] for step in range(5)]
    np.testing.assert_allclose(shares, [0.75, 0.75, 0.625, 0.625, 0.5])


@pytest.mark.parametrize("sampling", ["instance_balanced", "class_balanced", "square_root", "progressively_balanced"])
@pytest.mark.parametrize("replacement", [False, True])
def test_the_smallest_sets(sampling, replacement):
    options = {"sampling": sampling, "replacement": replacement, "batch_size": 4, "num_epochs": 2}
    assert (LongTailSampler([0], **options).draw(0, 100) == 0).all()
    for labels in ([0, 0], [0, 1]):
        ids = LongTailSampler(labels, **options).draw(0, 20_000)
        assert abs(ids.mean() - 0.5) < 0.02
        if not replacement and sampling in ("instance_balanced", "class_balanced"):
            np.testing.assert_array_equal(ids.reshape(-1, 2).sum(axis=1), 1)
            assert abs(ids[::2].mean() - 0.5) < 0.02


@pytest.mark.parametrize(("power", "drawn"), [(200.0, 0), (-200.0, 1)])
def test_a_large_power_draws_an_extreme_class_alone(power, drawn):
    labels = np.repeat([0, 1, 2], [1000, 1, 30])
    ids = LongTailSampler(labels, sampling=power, batch_size=8).draw(0, 500)
    assert set(labels[ids].tolist()) == {drawn}
