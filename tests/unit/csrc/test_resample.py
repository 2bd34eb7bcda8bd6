"""The C++ resampler equals Pillow's in every bit, and refuses what would read outside an image."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastlt import _C


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Return an image in which every wrong weight shows."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pillow(
    image: np.ndarray,
    size: int,
    box: tuple[float, float, float, float],
    *,
    flip: bool = False,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Resize with Pillow, the horizontal pass explicitly first: its own order depends on version and shape."""
    height, chosen = image.shape[0], FILTERS[interpolation]
    narrow = Image.fromarray(image).resize((size, height), chosen, (box[0], 0, box[2], height))
    square = narrow.resize((size, size), chosen, (0, box[1], size, box[3]))
    return np.asarray(square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else square)


def resample(images: list[np.ndarray], size: int, *, num_threads: int = 1, **parts: object) -> np.ndarray:
    """Return the squares, from memory that was poisoned."""
    out = np.full((len(images), size, size, 3), 171, np.uint8)
    _C.resample_batch(images, out=out, num_threads=num_threads, **parts)
    return out


def row(*values: float, dtype: type = np.int32) -> np.ndarray:
    return np.array([values], dtype)


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, tuple[int, int, int, int]]:
    """Draw an image's width and height, and a window in it."""
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return width, height, (x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))


@settings(max_examples=300, deadline=None)
@given(
    case=windows(),
    size=st.integers(1, 70),
    flip=st.booleans(),
    interpolation=st.sampled_from(list(FILTERS)),
    seed=st.integers(0, 2**32),
)
@example(case=(64, 64, (16, 16, 32, 32)), size=32, flip=True, interpolation="bicubic", seed=0)  # nothing to resample
@example(case=(64, 80, (0, 3, 32, 70)), size=32, flip=True, interpolation="bilinear", seed=0)  # only in height
@example(case=(90, 40, (5, 4, 80, 32)), size=32, flip=False, interpolation="bicubic", seed=0)  # only in width
@example(case=(1, 90, (0, 0, 1, 90)), size=7, flip=False, interpolation="bilinear", seed=0)
def test_a_window_is_cropped_then_resized(
    case: tuple[int, int, tuple[int, int, int, int]], size: int, flip: bool, interpolation: str, seed: int
) -> None:
    width, height, (x, y, w, h) = case
    image = noise(width, height, seed)
    got = resample([image], size, windows=row(x, y, w, h), flips=np.array([flip]), interpolation=interpolation)
    cropped = np.ascontiguousarray(image[y : y + h, x : x + w])
    expected = pillow(cropped, size, (0, 0, w, h), flip=flip, interpolation=interpolation)
    np.testing.assert_array_equal(got[0], expected)


def test_a_cubic_that_overshoots_is_clipped() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255  # an edge: the cubic's lobes leave 0 .. 255 on both sides
    got = resample([image], 32, interpolation="bicubic")
    np.testing.assert_array_equal(got[0], pillow(image, 32, (0, 0, 8, 8), interpolation="bicubic"))
    assert {0, 255} <= set(got.ravel().tolist())
    with pytest.raises(ValueError, match=r"^interpolation: .*\blanczos\b"):
        resample([image], 32, interpolation="lanczos")


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 70),
    edges=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    flip=st.booleans(),
    interpolation=st.sampled_from(list(FILTERS)),
)
def test_a_box_may_lie_anywhere_and_sees_what_is_round_it(
    width: int, height: int, size: int, edges: list[float], flip: bool, interpolation: str
) -> None:
    left, right = sorted((edges[0] * width, edges[1] * width))
    top, bottom = sorted((edges[2] * height, edges[3] * height))
    right, bottom = max(right, min(left + 0.25, width)), max(bottom, min(top + 0.25, height))
    left, top = min(left, right - 0.125), min(top, bottom - 0.125)
    image = noise(width, height)
    boxes = row(left, top, right, bottom, dtype=np.float64)
    got = resample([image], size, boxes=boxes, flips=np.array([flip]), interpolation=interpolation)
    expected = pillow(image, size, (left, top, right, bottom), flip=flip, interpolation=interpolation)
    np.testing.assert_array_equal(got[0], expected)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("interpolation", list(FILTERS))
def test_a_box_of_whole_pixels_and_of_the_size_asked_for_is_cut_out(flip: bool, interpolation: str) -> None:
    image = noise(40, 30)
    boxes = row(6, 8, 16, 18, dtype=np.float64)
    got = resample([image], 10, windows=row(3, 5, 30, 20), boxes=boxes, flips=np.array([flip]),
                   interpolation=interpolation)  # fmt: skip
    cut = image[13:23, 9:19]
    np.testing.assert_array_equal(got[0], cut[:, ::-1] if flip else cut)


def test_a_box_is_relative_to_its_window() -> None:
    image = noise(60, 50)
    got = resample([image], 16, windows=row(7, 5, 40, 30), boxes=row(3.5, 2.25, 30.75, 29, dtype=np.float64))
    cropped = np.ascontiguousarray(image[5:35, 7:47])
    np.testing.assert_array_equal(got[0], pillow(cropped, 16, (3.5, 2.25, 30.75, 29)))


def test_one_call_of_pillow_differs_by_its_order_of_passes_at_most() -> None:
    for width, height in ((500, 375), (375, 500), (60, 400)):
        image = noise(width, height)
        once = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(resample([image], 224)[0] - once).max() <= 1


def test_extreme_values_stay_what_they_are() -> None:
    for value in (0, 255):
        image = np.full((4001, 37, 3), value, np.uint8)
        assert (resample([image], 5) == value).all()


@pytest.mark.parametrize("num_threads", [2, 3, 16])
def test_the_number_of_threads_changes_nothing(num_threads: int) -> None:
    rng = np.random.default_rng(0)
    images = [noise(*rng.integers(1, 80, 2), seed=i) for i in range(41)]
    flips = rng.random(41) < 0.5
    np.testing.assert_array_equal(
        resample(images, 24, flips=flips, num_threads=num_threads), resample(images, 24, flips=flips)
    )


def test_only_the_rows_handed_over_are_written() -> None:
    out = np.full((3, 8, 8, 3), 171, np.uint8)
    _C.resample_batch([noise(20, 20)], out=out[1:2])
    assert (out[0] == 171).all()
    assert (out[2] == 171).all()


def test_an_empty_batch_is_nothing_to_do() -> None:
    assert resample([], 4).shape == (0, 4, 4, 3)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"windows": row(0, 0, 21, 10)}, "^image 0: .*window"),
        ({"windows": row(0, 1, 20, 10)}, "^image 0: .*window"),
        ({"windows": row(-1, 0, 5, 5)}, "^image 0: .*window"),
        ({"windows": row(3, 3, 0, 5)}, "^image 0: .*window"),
        ({"windows": row(0, -1, 5, 5)}, "^image 0: .*window"),
        ({"windows": row(3, 3, 5, 0)}, "^image 0: .*window"),
        ({"windows": row(2**31 - 1, 0, 2**31 - 1, 1)}, "^image 0: .*window"),
        ({"boxes": row(0, 0, 20.5, 10, dtype=np.float64)}, "^image 0: .*box"),
        ({"boxes": row(0, 0, 20, 10.5, dtype=np.float64)}, "^image 0: .*box"),
        ({"boxes": row(-0.5, 0, 5, 5, dtype=np.float64)}, "^image 0: .*box"),
        ({"boxes": row(0, -0.5, 5, 5, dtype=np.float64)}, "^image 0: .*box"),
        ({"boxes": row(5, 5, 8, 5, dtype=np.float64)}, "^image 0: .*box"),
        ({"boxes": row(0, 0, 5, dtype=np.float64)}, r"^boxes: .*\[1, 4\]"),
        ({"interpolation": "nearest"}, r"^interpolation: .*\bnearest\b"),
        ({"boxes": row(5, 5, 5, 8, dtype=np.float64)}, "^image 0: .*box"),
        ({"boxes": row(0, 0, np.nan, 8, dtype=np.float64)}, "^image 0: .*box"),
        ({"windows": row(0, 0, 5)}, r"^windows: .*\[1, 4\]"),
        ({"flips": np.array([True, False])}, r"^flips: .*\[1\]"),
        ({"num_threads": 0}, "^num_threads: "),
    ],
)
def test_what_does_not_fit_is_refused(parts: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resample([noise(20, 10)], 4, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [
        noise(6, 5)[:, ::2],
        noise(6, 5).astype(np.int32),
        noise(6, 5)[:, :, 0].copy(),
        noise(6, 5)[:0],
        np.zeros((5, 6, 4), np.uint8),
    ],
)
def test_only_contiguous_rgb_images_are_read(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^image 0: .*(contiguous uint8|shape)"):
        resample([image], 4)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 4, 5, 3), (1, 4, 4, 4), (1, 0, 0, 3), (4, 4, 3)])
def test_only_squares_of_the_batch_are_written(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^out: .*\[1, S, S, 3\]"):
        _C.resample_batch([noise(9, 9)], out=np.zeros(shape, np.uint8))


def test_arrays_of_another_type_are_not_converted_behind_the_callers_back() -> None:
    with pytest.raises(TypeError):
        resample([noise(9, 9)], 4, windows=row(0, 0, 9, 9, dtype=np.int64))
    with pytest.raises(TypeError):
        _C.resample_batch([noise(9, 9)], out=np.zeros((1, 4, 4, 3), np.float32))  # type: ignore[arg-type]
