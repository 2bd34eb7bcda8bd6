"""Colour jitter and normalisation against Pillow."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from fastlt.data.transforms import preprocess as module
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.ops.colours import color_jitter, jittered, sequence

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC))


def test_normalisation() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    images = torch.from_numpy(np.stack([picture(0), picture(1)]))
    out = Preprocess(mean, std)(images)
    expected = (images.double() / 255 - torch.tensor(mean, dtype=torch.float64)) / torch.tensor(
        std, dtype=torch.float64
    )
    torch.testing.assert_close(out.double(), expected.permute(0, 3, 1, 2), atol=1e-5, rtol=0)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_the_memory_format_is_the_one_asked_for_and_no_checkpoint_holds_the_constants() -> None:
    images = torch.from_numpy(np.stack([picture(0), picture(1)]))
    preprocess = Preprocess((0.5,) * 3, (0.25,) * 3, channels_last=False)
    assert preprocess(images).is_contiguous()
    assert preprocess(images).equal(Preprocess((0.5,) * 3, (0.25,) * 3)(images))
    assert not preprocess.state_dict()


@pytest.mark.parametrize("order", range(6))
def test_jitter_is_pillows_enhancement_within_its_rounding(order: int) -> None:
    factors = (0.63, 1.31, 1.22)
    image = picture(order)
    expected = Image.fromarray(image)
    for op in list(itertools.permutations(range(3)))[order]:
        expected = ENHANCERS[op](expected).enhance(factors[op])
    jittered = color_jitter(torch.from_numpy(image)[None].float(), torch.tensor([factors]), torch.tensor([order]))
    difference = (jittered[0] - torch.from_numpy(np.array(expected)).float()).abs()
    assert difference.max() < 3.5  # Pillow truncates to 8 bits after each of the three, here amplified by up to 1.6
    assert difference.mean() < 1.5


def test_orders_are_counted_as_permutations_are() -> None:
    places = torch.stack(sequence(torch.arange(6)), 1)
    assert places.tolist() == [list(each) for each in itertools.permutations(range(3))]


@pytest.mark.parametrize("operations", [None, torch.tensor([[12], [20]], dtype=torch.uint8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_the_jitter_is_an_operation_the_result_is_the_same(
    operations: torch.Tensor | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.from_numpy(np.stack([picture(0), picture(1)]))
    factors, order = torch.tensor([[0.6, 1.4, 1.2], [1.3, 0.7, 0.8]]), torch.tensor([3, 5], dtype=torch.uint8)
    preprocess, calls = Preprocess((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), []
    expected = preprocess(images, factors, order, operations, dtype)

    def counted(*arguments: object, **settings: object) -> torch.Tensor:
        calls.append(settings)
        return jittered(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "has_kernels", lambda images: True)
    monkeypatch.setattr(module, "jittered", counted)
    got = preprocess(images, factors, order, operations, dtype)
    assert len(calls) == 1
    assert got.dtype is dtype
    assert got.equal(expected)
    assert got.stride() == expected.stride()
    preprocess(images, operations=operations)
    assert len(calls) == 1  # a compiler makes one pass of the normalisation


def test_factors_of_one_change_nothing_and_images_do_not_mix() -> None:
    images = torch.from_numpy(np.stack([picture(3), picture(4)]))
    preprocess = Preprocess((0.5,) * 3, (0.25,) * 3)
    plain = preprocess(images)
    order = torch.tensor([2, 5], dtype=torch.uint8)
    torch.testing.assert_close(preprocess(images, torch.ones(2, 3), order), plain, atol=1e-4, rtol=0)
    strong = preprocess(images, torch.tensor([[1.0, 1.0, 1.0], [0.5, 1.4, 0.6]]), order)
    torch.testing.assert_close(strong[0], plain[0], atol=1e-4, rtol=0)
    assert (strong[1] - plain[1]).abs().mean() > 0.05
