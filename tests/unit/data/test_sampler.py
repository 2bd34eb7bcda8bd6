"""The sampler's contract: what it accepts and refuses, shares among ranks, resumes and pickles."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlt import _C
from fastlt.data import LongTailSampler, effective_number_weights

COUNTS = [50, 40, 30, 20, 15, 10, 7, 5, 3, 1]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), COUNTS))
EVERY_SAMPLING = ["instance_balanced", "class_balanced", "square_root", "progressively_balanced", 0.25]


def make(labels=LABELS, *, batch_size=12, num_epochs=5, **options):
    return LongTailSampler(labels, batch_size=batch_size, num_epochs=num_epochs, **options)


def test_length_is_whole_batches_and_at_least_one():
    assert len(make(batch_size=50)) == 3
    assert len(make(batch_size=len(LABELS) + 1)) == 1
    assert make(batch_size=50).batch(7).shape == (50,)
    assert make(batch_size=500).batch(0).dtype == np.int64


@pytest.mark.parametrize("kind", ["list", "int8", "uint16", "int32", "uint64", "big-endian", "strided", "torch"])
def test_any_kind_of_labels_gives_the_same_batches(kind):
    labels = {
        "list": LABELS.tolist(),
        "big-endian": LABELS.astype(">i4"),
        "strided": np.repeat(LABELS, 2)[::2],
        "torch": torch.from_numpy(LABELS),
    }.get(kind)
    sampler = make(LABELS.astype(kind) if labels is None else labels, sampling="class_balanced")
    expected = make(sampling="class_balanced")
    np.testing.assert_array_equal(sampler.draw(0, 500), expected.draw(0, 500))
    assert sampler.fingerprint == expected.fingerprint


def test_labels_may_be_memory_mapped(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    LABELS.astype(np.int32).tofile(tmp_path / "labels.bin")
    expected = make(sampling="square_root").draw(0, 100)
    for labels in (tmp_path / "labels.npy", np.memmap(tmp_path / "labels.bin", dtype=np.int32, mode="r")):
        np.testing.assert_array_equal(make(labels, sampling="square_root").draw(0, 100), expected)


def test_torch_is_not_imported():
    code = "import sys; from fastlt.data import LongTailSampler as S; S([0, 1], batch_size=2).batch(0); "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize("sampling", EVERY_SAMPLING)
@pytest.mark.parametrize("options", [{}, {"unique_batches": True}, {"shuffle_batches": True}])
def test_ranks_share_the_same_global_batches(sampling, options):
    whole = make(sampling=sampling, **options)
    for world_size in (2, 3, 4, 12):
        ranks = [make(sampling=sampling, rank=r, world_size=world_size, **options) for r in range(world_size)]
        for step in (0, 1, 17, 10**6):
            np.testing.assert_array_equal(np.concatenate([r.batch(step) for r in ranks]), whole.batch(step))
            assert [r.first_slot(step) for r in ranks] == [
                step * 12 + i * (12 // world_size) for i in range(world_size)
            ]


@pytest.mark.parametrize("sampling", EVERY_SAMPLING)
def test_resuming_equals_never_having_stopped(sampling):
    straight = make(sampling=sampling)
    epochs = [list(straight) for _ in range(3)]
    for step in (0, 4, len(straight), 2 * len(straight) + 3):
        state = json.loads(json.dumps(straight.state_dict(step=step)))
        resumed = make(sampling=sampling, rank=0, world_size=1)
        resumed.load_state_dict(state)
        epoch, done = divmod(step, len(straight))
        np.testing.assert_array_equal(list(resumed), epochs[epoch][done:])
        if epoch < 2:
            np.testing.assert_array_equal(list(resumed), epochs[epoch + 1])


def test_a_state_counts_consumed_batches_whatever_was_fetched():
    sampler = make(sampling="class_balanced")
    batches = iter(sampler)
    fetched = [next(batches) for _ in range(5)]
    other = make(sampling="class_balanced")
    other.load_state_dict(sampler.state_dict(step=2))
    np.testing.assert_array_equal(next(iter(other)), fetched[2])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, r"\bseed .*\b0\b.*\b1\b"),
        ({"batch_size": 24}, r"\bbatch_size .*\b12\b.*\b24\b"),
        ({"sampling": "square_root"}, "sampling .*'class_balanced'.*'square_root'"),
        ({"samples_per_class": 2}, r"\bsamples_per_class .*\b1\b.*\b2\b"),
        ({"unique_batches": True}, "unique_batches"),
        ({"shuffle_batches": True}, "shuffle_batches"),
        ({"replacement": True}, r"\breplacement .*False.*True"),
        ({"sampling": "instance_balanced", "class_weights": np.arange(1, 11)}, "class_weights .*None"),
        ({"labels": np.roll(LABELS, 1)}, r"\blabels "),
    ],
)
def test_a_state_of_other_labels_or_settings_is_refused(change, reason):
    state = make(sampling="class_balanced").state_dict(step=3)
    other = make(**{"sampling": "class_balanced", **change})
    with pytest.raises(ValueError, match=f"^state: .*{reason}"):
        other.load_state_dict(state)


def test_a_state_of_another_ramp_or_other_weights_is_refused():
    for one, other, reason in (
        ({"sampling": "progressively_balanced"}, {"num_epochs": 6}, r"\bramp .*\[15, 4\].*\[15, 5\]"),
        ({"class_weights": np.arange(1, 11)}, {"class_weights": np.arange(2, 12)}, "class_weights "),
    ):
        with pytest.raises(ValueError, match=f"^state: .*{reason}"):
            make(**{**one, **other}).load_state_dict(make(**one).state_dict(step=3))


def test_a_state_fits_another_world_size_but_must_be_whole():
    state = make(sampling="class_balanced").state_dict(step=3)
    rank = make(sampling="class_balanced", rank=1, world_size=2)
    rank.load_state_dict(state)
    np.testing.assert_array_equal(next(iter(rank)), make(sampling="class_balanced").batch(3)[6:])
    for broken in ({}, {**state, "fingerprint": "0"}, {**state, "step": -1}):
        with pytest.raises(ValueError, match=r"state|step"):
            rank.load_state_dict(broken)


@pytest.mark.parametrize("sampling", EVERY_SAMPLING)
def test_pickling_keeps_the_order(sampling):
    sampler = make(sampling=sampling, rank=1, world_size=3)
    sampler.set_epoch(2)
    copy = pickle.loads(pickle.dumps(sampler))
    batches = list(sampler)
    np.testing.assert_array_equal(list(copy), batches)
    np.testing.assert_array_equal(batches[0], sampler.batch(2 * len(sampler)))
    assert copy.fingerprint == sampler.fingerprint


def test_a_pickle_holds_four_bytes_a_sample_or_none():
    labels = np.repeat(np.arange(10), 10_000)
    assert len(pickle.dumps(make(labels))) < 5_000
    assert len(pickle.dumps(make(labels, sampling="class_balanced"))) < 4 * len(labels) + 5_000


@pytest.mark.parametrize("num_workers", [0, 2])
def test_it_is_a_batch_sampler_for_a_data_loader(num_workers):
    sampler = make(sampling="class_balanced")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(LABELS)), batch_sampler=sampler, num_workers=num_workers
    )
    assert len(loader) == len(sampler)
    reference = make(sampling="class_balanced")
    for epoch in range(2):
        seen = [labels.numpy() for (labels,) in loader]
        np.testing.assert_array_equal(
            seen, [LABELS[reference.batch(epoch * len(sampler) + i)] for i in range(len(sampler))]
        )


def test_iteration_ends_with_the_training():
    sampler = make(num_steps=20)
    assert [len(list(sampler)) for _ in range(3)] == [15, 5, 0]
    assert len(list(sampler.batches(13, 4))) == 4


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"labels": []}, r"^labels: .*\[0\]"),
        ({"labels": [[0, 1]]}, r"^labels: .*\[1, 2\]"),
        ({"labels": [0.0, 1.0]}, r"^labels: got float64\b"),
        ({"labels": [0, -1, 1]}, r"^labels: (?=.*position 1\b).*-1\b"),
        ({"labels": [-3]}, r"^labels: .*-3\b"),
        ({"labels": [0, 1, 5], "num_classes": 3}, r"^labels: (?=.*position 2\b).*\b5\b"),
        ({"labels": [0, 2]}, r"^labels: .*\b1 of 3 classes.*class 1\b.*class_weights"),
        ({"labels": [0, 2], "sampling": "class_balanced"}, r"^labels: .*class 1\b"),
        ({"labels": [0, 10**12]}, f"^labels: .*{10**12 + 1} classes"),
        ({"num_classes": 11}, r"^labels: .*class 10\b"),
        ({"sampling": "balanced"}, "^sampling: got 'balanced'.*instance_balanced, "),
        ({"sampling": float("nan")}, r"^sampling: got nan\b"),
        ({"sampling": None}, r"^sampling: got None\b"),
        ({"batch_size": 0}, r"^batch_size: got 0\b"),
        ({"batch_size": 2.5}, r"^batch_size: got 2\.5"),
        ({"seed": -1}, r"^seed: got -1\b"),
        ({"seed": 2**64}, f"^seed: got {2**64}"),
        ({"world_size": 5, "rank": 0}, r"^world_size: got 5\b.*batch_size 12\b"),
        ({"world_size": 2}, r"^rank: got None\b.*\b0 to 1\b"),
        ({"rank": 0}, r"^world_size: got None\b.*\brank 0\b"),
        ({"world_size": 2, "rank": 2}, r"^rank: got 2\b.*\b0 to 1\b"),
        ({"sampling": "class_balanced", "samples_per_class": 13}, r"^samples_per_class: got 13\b.*\b12\b"),
        ({"sampling": "square_root", "samples_per_class": 2}, r"^samples_per_class: got 2\b.*'square_root'"),
        (
            {"sampling": "class_balanced", "samples_per_class": 2, "replacement": True},
            r"^samples_per_class: got 2\b.*replacement",
        ),
        (
            {"sampling": "progressively_balanced", "num_epochs": None},
            "^num_epochs: .*progressively_balanced.*num_steps",
        ),
        ({"progress": "batch"}, "^progress: got 'batch'.*'epoch'.*'step'"),
        ({"class_weights": [1.0] * 9}, r"^class_weights: .*\[9\].*\[10\]"),
        ({"class_weights": [float("nan")] * 10}, r"^class_weights: (?=.*class 0\b).*\bnan\b"),
        ({"class_weights": [1.0] * 9 + [float("inf")]}, r"^class_weights: (?=.*class 9\b).*\binf\b"),
        ({"class_weights": [1.0] * 9 + [-1.0]}, r"^class_weights: (?=.*class 9\b).*-1\.0"),
        ({"class_weights": [0.0] * 10}, r"^class_weights: .*\b0\b"),
        ({"class_weights": [1.0] * 10, "sampling": "square_root"}, "^class_weights: .*'square_root'"),
    ],
)
def test_errors_name_what_is_wrong(options, reason):
    with pytest.raises(ValueError, match=reason):
        make(**options)


@pytest.mark.parametrize("step", [-1, 1.5, None, 2**62])
def test_a_step_is_a_whole_number(step):
    with pytest.raises(ValueError, match=r"^step: got "):
        make().batch(step)


def test_weight_zero_leaves_a_class_out_even_an_empty_one():
    sampler = make(np.array([0, 0, 2, 3]), class_weights=[1.0, 0.0, 3.0, 0.0])
    assert set(sampler.draw(0, 1000).tolist()) == {0, 1, 2}


def test_effective_number_weights_interpolate_between_the_samplings():
    counts = np.array([1280, 100, 20, 5])
    np.testing.assert_allclose(effective_number_weights(counts, beta=0.0), counts / counts.sum())
    np.testing.assert_allclose(effective_number_weights(counts, beta=1 - 1e-12), np.full(4, 0.25), rtol=1e-6)
    effective = (1 - 0.999 ** counts.astype(float)) / (1 - 0.999)
    expected = counts / effective
    np.testing.assert_allclose(effective_number_weights(counts, beta=0.999), expected / expected.sum(), rtol=1e-12)
    assert effective_number_weights([3, 0, 1])[1] == 0
    for wrong in ({"beta": 1.0}, {"beta": -0.1}, {"class_counts": [0, 0]}, {"class_counts": [-1, 2]}):
        with pytest.raises(ValueError, match=r"beta|class_counts"):
            effective_number_weights(**{"class_counts": counts, **wrong})


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    sampling=st.sampled_from(EVERY_SAMPLING),
    local=st.integers(1, 9),
    world_size=st.integers(1, 5),
    unique=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**40),
)
def test_any_batch_is_the_ranks_batches_in_a_row(counts, sampling, local, world_size, unique, seed, step):
    labels = np.repeat(np.arange(len(counts)), counts)
    options = {"sampling": sampling, "batch_size": local * world_size, "seed": seed, "unique_batches": unique}
    whole = make(labels, **options).batch(step)
    parts = [make(labels, rank=rank, world_size=world_size, **options).batch(step) for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.min() >= 0
    assert whole.max() < len(labels)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    sampling=st.sampled_from(EVERY_SAMPLING),
    replacement=st.booleans(),
    batch_size=st.integers(1, 64),
    seed=st.integers(0, 1000),
)
def test_unique_batches_repeat_an_image_only_when_its_class_is_used_up(counts, sampling, replacement, batch_size, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    options = {"sampling": sampling, "replacement": replacement, "batch_size": batch_size, "seed": seed}
    unique, plain = make(labels, unique_batches=True, **options), make(labels, **options)
    for step in range(3):
        batch = unique.batch(step)
        uses = np.bincount(batch, minlength=len(labels))
        if sampling == "instance_balanced":
            assert uses.max() <= -(-batch_size // len(labels))
            continue
        np.testing.assert_array_equal(labels[batch], labels[plain.batch(step)])
        drawn = np.bincount(labels[batch], minlength=len(counts))
        assert (uses <= -(-drawn // counts)[labels]).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64])
def test_a_label_is_below_the_number_of_classes(dtype):
    labels = np.array([0, 1, 2, 1], dtype)
    with pytest.raises(ValueError, match=r"^labels: (?=.*position 2\b).*\b2\b"):
        _C.ClassIndex(labels, num_classes=2)
    index = _C.ClassIndex(labels, num_classes=3)
    assert index.fingerprint != _C.ClassIndex(labels, num_classes=4).fingerprint
    assert index.fingerprint != _C.ClassIndex(labels[::-1].copy(), num_classes=3).fingerprint
    assert index.order.tolist() == [0, 1, 3, 2]
    assert index.offsets.tolist() == [0, 1, 3, 4]
    with pytest.raises(ValueError, match="read-only"):
        index.order[0] = 1
    many = np.tile(labels, 40_000)
    assert (
        _C.ClassIndex(many, num_classes=3, num_threads=3).fingerprint == _C.ClassIndex(many, num_classes=3).fingerprint
    )
