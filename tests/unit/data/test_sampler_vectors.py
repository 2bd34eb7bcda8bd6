"""Vector instructions, threads, the width of ids and the platform change no result."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlt import _C
from fastlt.data import LongTailSampler

COUNTS = [300, 130, 129, 128, 64, 40, 33, 32, 21, 20, 20, 19, 13, 5, 2, 1, 1]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))
LAWS = list(_C.Law.__members__.values())


def core(counts=COUNTS, *, law, seed=0, batch_size=16, samples_per_class=1, wide_ids=False, **options):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    index = _C.ClassIndex(labels, num_classes=len(counts), wide_ids=wide_ids)
    weights = np.sqrt(counts) if law == _C.Law.weighted else []
    ramp = {"ramp_slots": batch_size, "ramp_units": 100} if law == _C.Law.mixture else {}
    return _C.Sampler(
        index,
        law=law,
        seed=seed,
        batch_size=batch_size,
        epoch_slots=max(1, len(labels) // batch_size) * batch_size if batch_size <= len(labels) else len(labels),
        samples_per_class=samples_per_class if law == _C.Law.class_cycles else 1,
        weights=weights,
        **ramp,
        **options,
    )


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(1, 25) | st.integers(1, 400), min_size=1, max_size=60),
    law=st.sampled_from(LAWS),
    samples_per_class=st.integers(1, 5),
    batch_size=st.integers(1, 40),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    first=st.integers(0, 2000) | st.integers(2**32 - 600, 2**32) | st.integers(0, 2**55),
    count=st.integers(1, 700),
)
def test_vectors_draw_what_one_slot_at_a_time_draws(
    counts, law, samples_per_class, batch_size, shuffle, seed, first, count
):
    options = {"law": law, "samples_per_class": samples_per_class, "batch_size": batch_size, "seed": seed}
    sampler = core(counts, shuffle_batches=shuffle, **options)
    expected = sampler.draw(first, count, simd=_C.Simd.scalar)
    for simd in (_C.Simd.avx2, _C.Simd.avx512):  # a processor without them falls back
        np.testing.assert_array_equal(sampler.draw(first, count, simd=simd), expected)
    wide = core(counts, shuffle_batches=shuffle, wide_ids=True, **options)
    np.testing.assert_array_equal(wide.draw(first, count), expected)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("simd", _C.Simd.__members__.values())
def test_vectors_agree_over_many_slots(law, simd):
    sampler = core(law=law)
    np.testing.assert_array_equal(sampler.draw(0, 50_000, simd=simd), sampler.draw(0, 50_000, simd=_C.Simd.scalar))


@pytest.mark.parametrize("simd", _C.Simd.__members__.values())
def test_vectors_agree_on_every_number_of_rounds(simd):
    sampler = core([3, 25, 128, 129, 512, 513, 2048, 2049, 4000], law=_C.Law.class_cycles)
    np.testing.assert_array_equal(sampler.draw(0, 50_000, simd=simd), sampler.draw(0, 50_000, simd=_C.Simd.scalar))


@pytest.mark.parametrize("simd", _C.Simd.__members__.values())
@pytest.mark.parametrize("visits", [0, 2**24, 2**31 - 1000, 2**31, 2**32])
def test_vectors_agree_however_often_a_class_was_drawn(simd, visits):
    counts = [1, 2, 3, 7, 129, 255, 256, 257, 1023, 1025, 65_535, 65_536, 65_537]
    sampler = core(counts, law=_C.Law.class_cycles)
    first = visits * len(counts)
    np.testing.assert_array_equal(
        sampler.draw(first, 20_000, simd=simd), sampler.draw(first, 20_000, simd=_C.Simd.scalar)
    )


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("options", [{}, {"shuffle_batches": True}, {"unique_batches": True}])
def test_threads_change_nothing(law, options):
    sampler = core(law=law, **options)
    expected = sampler.draw(12_345, 30_000, num_threads=1)
    for num_threads in (2, 3, 8):
        np.testing.assert_array_equal(sampler.draw(12_345, 30_000, num_threads=num_threads), expected)


@pytest.mark.parametrize("law", LAWS)
def test_any_piece_is_a_piece_of_the_whole(law):
    sampler = core(law=law, unique_batches=True, shuffle_batches=True)
    whole = sampler.draw(0, 2000)
    for first, count in ((0, 1), (7, 30), (255, 258), (1999, 1), (500, 0)):
        np.testing.assert_array_equal(sampler.draw(first, count), whole[first : first + count])


def test_the_index_is_the_same_for_any_number_of_threads():
    labels = np.random.default_rng(1).integers(0, 50, 1_000_000).astype(np.int16)
    one = _C.ClassIndex(labels, num_classes=50)
    np.testing.assert_array_equal(one.order, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(np.diff(one.offsets), np.bincount(labels))
    for num_threads in (2, 3, 8):
        many = _C.ClassIndex(labels, num_classes=50, num_threads=num_threads)
        np.testing.assert_array_equal(many.order, one.order)
        assert many.fingerprint == one.fingerprint
    assert _C.ClassIndex(labels, num_classes=50, with_order=False).order is None


def test_the_first_wrong_label_is_named_on_any_number_of_threads():
    labels = np.zeros(1_000_000, dtype=np.int64)
    labels[[333_333, 999_999]] = 7
    for num_threads in (1, 4):
        with pytest.raises(ValueError, match=r"^labels: (?=.*\b333333\b).*\b7\b"):
            _C.ClassIndex(labels, num_classes=2, num_threads=num_threads)


GOLDEN = {
    "instance_balanced": ({}, [[772, 433, 294, 172, 719, 30, 596, 275], [48, 63, 954, 879, 107, 803, 47, 106]]),
    "class_balanced": (
        {"sampling": "class_balanced"},
        [[479, 699, 844, 618, 312, 795, 605, 490], [257, 233, 663, 857, 397, 143, 899, 814]],
    ),
    "class_balanced in fours": (
        {"sampling": "class_balanced", "samples_per_class": 4},
        [[161, 293, 482, 479, 191, 699, 148, 332], [269, 786, 269, 66, 814, 269, 269, 66]],
    ),
    "square_root": (
        {"sampling": "square_root"},
        [[397, 730, 671, 531, 157, 131, 297, 597], [224, 339, 425, 825, 939, 465, 495, 655]],
    ),
    "progressively_balanced": (
        {"sampling": "progressively_balanced"},
        [[874, 316, 715, 274, 738, 873, 560, 292], [553, 339, 220, 23, 939, 465, 495, 655]],
    ),
    "instances with replacement": (
        {"replacement": True},
        [[947, 474, 398, 91, 403, 280, 630, 341], [771, 684, 78, 878, 437, 542, 101, 70]],
    ),
    "classes with replacement": (
        {"sampling": "class_balanced", "replacement": True},
        [[397, 730, 671, 531, 143, 111, 297, 597], [233, 339, 425, 269, 939, 465, 495, 655]],
    ),
    "unique batches": (
        {"sampling": "class_balanced", "samples_per_class": 4, "unique_batches": True},
        [[161, 293, 482, 479, 191, 699, 148, 332], [269, 786, 269, 66, 814, 269, 269, 527]],
    ),
}


@pytest.mark.parametrize("sampling", GOLDEN)
def test_golden_values(sampling):
    """The stream is a promise: a run resumed on another machine or in a later version goes on with the same samples."""
    options, expected = GOLDEN[sampling]
    sampler = LongTailSampler(LABELS, batch_size=8, seed=2020, num_epochs=10, **options)
    assert [sampler.batch(step).tolist() for step in (0, 500)] == expected
