"""Crops, flips and jitter: torchvision's laws, keyed by the global slot."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, ks_1samp, ks_2samp

from fastlt.data.transforms.augmentation import Augmentation, EvalTransform

SIZES = np.array([[500, 375], [333, 500], [64, 64], [32, 400], [2000, 90], [1, 1]], dtype=np.int32)


def reference_window(width, height, scale, ratio, rng):
    """RandomResizedCrop as torchvision documents it, on NumPy's generator."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, width - w + 1), rng.integers(0, height - h + 1), w, h
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (width - w) // 2, (height - h) // 2, w, h


def features(windows, size):
    return np.column_stack(
        [windows[:, :2] / np.maximum(1, np.array(size) - windows[:, 2:]), windows[:, 2] / windows[:, 3]]
    )


@pytest.mark.parametrize("size", SIZES.tolist())
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 0.9)])
def test_windows_follow_random_resized_crop(size, scale):
    augmentation, rng = Augmentation(size=224, scale=scale), np.random.default_rng(0)
    windows = augmentation.draw(0, np.tile(np.int32([size]), (20_000, 1)), seed=1).windows
    reference = np.array([reference_window(*size, scale, augmentation.ratio, rng) for _ in range(10_000)])
    for column in range(4):
        assert ks_2samp(windows[:, column], reference[:, column]).pvalue > 1e-4
    # and together: the place within what the window leaves free, and the aspect ratio
    for ours, theirs in zip(*(features(w, size).T for w in (windows, reference)), strict=True):
        assert ks_2samp(ours, theirs).pvalue > 1e-4


def test_an_image_too_narrow_for_any_try_falls_back_to_its_centre():
    draws = Augmentation(size=32, scale=(0.9, 1.0)).draw(
        0, np.int32([[1000, 30], [30, 1000], [1000, 32], [32, 1000]]), seed=0
    )
    # 32 / (3 / 4) is rounded up
    expected = [[480, 0, 40, 30], [0, 480, 30, 40], [478, 0, 43, 32], [0, 478, 32, 43]]
    np.testing.assert_array_equal(draws.windows, expected)


def test_flips_factors_and_orders_follow_their_laws():
    num_slots = 60_000
    draws = Augmentation(size=8, flip=0.3, jitter=0.4).draw(0, np.full((num_slots, 2), 64, np.int32), seed=2)
    assert binomtest(int(draws.flips.sum()), num_slots, 0.3).pvalue > 1e-4
    assert chisquare(np.bincount(draws.order, minlength=6)).pvalue > 1e-4
    for column in draws.jitter.T:
        assert ks_1samp(column, lambda x: np.clip((x - 0.6) / 0.8, 0, 1)).pvalue > 1e-4
    together = np.column_stack([draws.jitter, draws.flips, draws.order, draws.windows])
    correlations = np.corrcoef(together.T)[:5, :5] - np.eye(5)
    assert np.abs(correlations).max() < 5 / np.sqrt(num_slots)
    assert np.abs(np.corrcoef(draws.jitter[1:, 0], draws.jitter[:-1, 0])[0, 1]) < 5 / np.sqrt(num_slots)


def test_extremes_switch_things_off():
    sizes = np.full((100, 2), 64, np.int32)
    draws = Augmentation(size=8, flip=0.0, jitter=0.0, scale=(1.0, 1.0), ratio=(1.0, 1.0)).draw(0, sizes, seed=0)
    assert not draws.flips.any()
    assert (draws.jitter == 1).all()
    np.testing.assert_array_equal(draws.windows, np.tile([0, 0, 64, 64], (100, 1)))
    assert Augmentation(size=8, flip=1.0).draw(0, sizes, seed=0).flips.all()
    assert Augmentation(size=8, jitter=2.0).draw(0, sizes, seed=0).jitter.min() >= 0


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1)), min_size=1, max_size=20),
    first=st.integers(0, 2**60),
    seed=st.integers(0, 2**64 - 1),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
)
def test_a_draw_depends_on_its_slot_alone_and_stays_inside(sizes, first, seed, scale, ratio):
    augmentation = Augmentation(size=8, scale=tuple(scale), ratio=tuple(ratio))
    sizes = np.array(sizes, dtype=np.int32)
    together = augmentation.draw(first, sizes, seed=seed)
    x, y, w, h = together.windows.astype(np.int64).T
    assert (x >= 0).all() and (y >= 0).all() and (w >= 1).all() and (h >= 1).all()  # noqa: PT018
    assert (x + w <= sizes[:, 0]).all()
    assert (y + h <= sizes[:, 1]).all()
    for i in (0, len(sizes) - 1):
        for alone, all_of_it in zip(augmentation.draw(first + i, sizes[i : i + 1], seed=seed), together, strict=True):
            np.testing.assert_array_equal(alone[0], all_of_it[i])


def test_seeds_differ_and_types_are_as_promised():
    augmentation, sizes = Augmentation(size=8), np.full((50, 2), 100, np.int32)
    one, two, far = (augmentation.draw(0, sizes, seed=seed) for seed in (1, 2, 1 + 2**32))
    assert (one.windows != two.windows).any(axis=1).mean() > 0.9
    assert (one.windows != far.windows).any(axis=1).mean() > 0.9
    assert [x.dtype for x in one] == [np.int32, np.bool_, np.float32, np.uint8]
    assert [x.shape for x in one] == [(50, 4), (50,), (50, 3), (50,)]


GOLDEN_WINDOWS = [[10, 22, 341, 348], [14, 37, 285, 228], [16, 0, 48, 64]]
GOLDEN_FLIPS = [True, False, True]
GOLDEN_ORDER = [1, 0, 0]
GOLDEN_JITTER = [
    [1.3266953, 0.81655973, 0.88566935],
    [0.7713326, 0.8693273, 1.148218],
    [1.2251543, 1.0104219, 1.1053753],
]


def test_golden_values():
    """The stream is a promise, as the sampler's is."""
    draws = Augmentation(size=224).draw(2**33 + 5, SIZES[:3], seed=2020)
    assert draws.windows.tolist() == GOLDEN_WINDOWS
    assert draws.flips.tolist() == GOLDEN_FLIPS
    assert draws.order.tolist() == GOLDEN_ORDER
    np.testing.assert_array_equal(draws.jitter, np.float32(GOLDEN_JITTER))


GOLDEN_HUGE = [
    [1396833938, 1311015041, 604491221, 631773759],
    [565973264, 757460744, 1516476084, 1331582007],
    [443526315, 167939546, 1689225305, 1976085819],
    [450437673, 796782416, 738698808, 981646062],
    [481909325, 595055317, 1528787942, 1269449549],
]


def test_golden_values_of_huge_images():
    """Every pixel of these shows the last bits of a draw, and the words that are drawn again where one is refused."""
    windows = Augmentation(size=8).draw(12345, np.full((5, 2), 2**31 - 1, np.int32), seed=7).windows
    assert windows.tolist() == GOLDEN_HUGE


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"size": 0}, r"^size: got 0\b"),
        ({"scale": (0.0, 1.0)}, r"^scale: got 0\.0 and 1\.0\b"),
        ({"scale": (0.5, 1.5)}, r"^scale: got 0\.5 and 1\.5\b"),
        ({"ratio": (2.0, 1.0)}, r"^ratio: got 2\.0 and 1\.0\b"),
        ({"ratio": (1.0, math.inf)}, r"^ratio: got 1\.0 and inf\b"),
        ({"flip": 1.5}, r"^flip: got 1\.5\b"),
        ({"jitter": -0.1}, r"^jitter: got -0\.1\b"),
        ({"jitter": math.nan}, r"^jitter: got nan\b"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Augmentation(**{"size": 8, **options})


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"^sizes: (?=.*\bimage 1\b).*\b0 pixels"):
        Augmentation(size=8).draw(0, np.int32([[3, 3], [3, 0]]), seed=0)
    with pytest.raises(ValueError, match=r"^sizes: .*\[B, 2\]"):
        Augmentation(size=8).draw(0, np.zeros((3, 3), np.int32), seed=0)
    with pytest.raises(ValueError, match=r"^sizes: .*\[3, 3\].*\[N, 2\]"):
        EvalTransform(size=8, resize=9).boxes(np.ones((3, 3), np.int32))
    with pytest.raises(ValueError, match=r"^sizes: .*\[2, 2\].*at least 1"):
        EvalTransform(size=8, resize=9).boxes(np.int32([[5, 0], [3, 3]]))
    with pytest.raises(ValueError, match=r"^size: got 9\b.*\b8\b"):
        EvalTransform(size=9, resize=8)
    with pytest.raises(ValueError, match=r"^interpolation: got 'nearest'"):
        EvalTransform(size=8, resize=8, interpolation="nearest")


def test_sizes_may_be_of_any_integer_type_and_any_length():
    sizes = [[2_000_000_000, 1], [3, 1_900_000_000]]
    draws = Augmentation(size=8).draw(0, np.array(sizes, np.int32), seed=3)
    for same, each in zip(draws, Augmentation(size=8).draw(0, np.array(sizes, np.int64), seed=3), strict=True):
        np.testing.assert_array_equal(same, each)
    boxes = EvalTransform(size=8, resize=12).boxes(np.array(sizes, np.int32))
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], [[8 / 12] * 2, [2.0] * 2], rtol=1e-6)


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (32, 37), (8, 8), (15, 18)])
def test_boxes_are_resize_and_center_crop(size, resize):
    sizes = np.random.default_rng(0).integers(1, 3000, (2000, 2))
    boxes = EvalTransform(size=size, resize=resize).boxes(sizes)
    for (width, height), box in zip(sizes.tolist(), boxes, strict=True):
        if width <= height:
            w, h = resize, int(resize * height / width)
        else:
            w, h = int(resize * width / height), resize
        left, top = round((w - size) / 2.0), round((h - size) / 2.0)
        across, down = width / w, height / h
        expected = [left * across, top * down, (left + size) * across, (top + size) * down]
        np.testing.assert_allclose(box, expected, rtol=1e-12)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= sizes * (1 + 1e-12)).all()
