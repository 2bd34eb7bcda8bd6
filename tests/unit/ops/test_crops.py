"""The network's input cut out of images in memory, in one operation."""

from typing import Any

import pytest
import torch

from fastlt import ops
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.ops import crops

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def pictures() -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Two images of noise, 7 x 9 and 5 x 4 pixels, with what is cut out of them."""
    data = torch.randint(0, 256, (3 * (63 + 20),), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    windows = torch.tensor([[1, 0, 6, 8], [0, 0, 5, 4]], dtype=torch.int32)
    boxes = torch.tensor([[0.0, 0, 6, 8], [0.5, 0, 4, 3.5]])
    places = data, torch.tensor([0, 3 * 63]), torch.tensor([7, 5], dtype=torch.int32)
    return places, {"windows": windows, "boxes": boxes, "flips": torch.tensor([False, True]), "size": 6}


@pytest.mark.parametrize("jittered", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_inputs_are_squares_jittered_and_normalised(interpolation: str, jittered: bool) -> None:
    places, settings = pictures()
    settings["interpolation"] = interpolation
    factors = torch.tensor([[0.6, 1.4, 1.2], [1.3, 0.7, 0.8]]) if jittered else None
    order = torch.tensor([3, 5], dtype=torch.uint8) if jittered else None
    got = ops.network_inputs(*places, **settings, factors=factors, order=order, mean=MEAN, std=STD)
    expected = Preprocess(MEAN, STD)(ops.squares(*places, **settings), factors, order)
    assert torch.equal(got.permute(0, 3, 1, 2), expected)
    scale, shift = [1.0, 2.0, 3.0], [0.0, 1.0, 2.0]
    parts = (settings["windows"], settings["boxes"], settings["flips"])
    torch.library.opcheck(
        crops._network_inputs, (*places, *parts, factors, order, scale, shift, 6, False, torch.bfloat16)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": torch.ones(2, 3)}, r"^factors\b.*\border\b"),
        (
            {"factors": torch.ones(3, 3), "order": torch.zeros(2, dtype=torch.uint8)},
            r"^factors\b.*float32 \[3, 3\]",
        ),
        ({"mean": (0.5,)}, r"^mean\b.*got \(0\.5,\)"),
        ({"dtype": torch.float16}, r"^dtype: got torch\.float16"),
        ({"size": 0}, r"^size\b.*got 0\b"),
        ({"flips": torch.zeros(2)}, r"^flips\b.*got torch\.float32"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    places, settings = pictures()
    with pytest.raises(ValueError, match=message):
        ops.network_inputs(*places, **{"mean": MEAN, "std": STD} | settings | change)
