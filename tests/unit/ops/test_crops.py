"""Squares cut out of images in memory, in one operation."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastlt import ops
from fastlt.ops import crops


def pictures() -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Two images of noise, 7 x 9 and 5 x 4 pixels, with what is cut out of them."""
    data = torch.randint(0, 256, (3 * (63 + 20),), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    windows = torch.tensor([[1, 0, 6, 8], [0, 0, 5, 4]], dtype=torch.int32)
    boxes = torch.tensor([[0.0, 0, 6, 8], [0.5, 0, 4, 3.5]])
    places = data, torch.tensor([0, 3 * 63]), torch.tensor([7, 5], dtype=torch.int32)
    return places, {"windows": windows, "boxes": boxes, "flips": torch.tensor([False, True]), "size": 6}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squares_are_pillows(interpolation: str) -> None:
    places, settings = pictures()
    got = ops.squares(*places, **settings, interpolation=interpolation)
    image = Image.fromarray(places[0][3 * 63 :].view(4, 5, 3).numpy())
    resized = image.resize((6, 6), Image.Resampling[interpolation.upper()], box=(0.5, 0, 4, 3.5))
    np.testing.assert_array_equal(got[1].numpy(), np.asarray(resized)[:, ::-1])
    cubic = interpolation == "bicubic"
    torch.library.opcheck(
        crops._squares, (*places, settings["windows"], settings["boxes"], settings["flips"], 6, cubic)
    )


class Distant(torch.Tensor):
    """A tensor in the memory of a GPU, as far as NumPy knows."""

    def numpy(self) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_a_gpu_without_kernels_has_squares_too() -> None:
    places, settings = pictures()
    there = {name: value.as_subclass(Distant) for name, value in settings.items() if isinstance(value, torch.Tensor)}
    got = ops.squares(*(tensor.as_subclass(Distant) for tensor in places), **settings | there)
    assert torch.equal(got.as_subclass(torch.Tensor), ops.squares(*places, **settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.ones(2, 3)}, r"^boxes\b.*float32 \[2, 4\]"),
        ({"size": 0}, r"^size\b.*got 0\b"),
        ({"flips": torch.zeros(2)}, r"^flips\b.*got torch\.float32"),
        ({"interpolation": "nearest"}, r"^interpolation\b.*got 'nearest'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    places, settings = pictures()
    with pytest.raises(ValueError, match=message):
        ops.squares(*places, **settings | change)
