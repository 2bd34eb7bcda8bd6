"""Colour jitter, scaling and shifting as one operation."""

from typing import Any

import pytest
import torch

from fastlt import ops
from fastlt.ops import colours

SCALE, SHIFT = [0.017, 0.018, 0.0174], [-2.1, -2.0, -1.8]


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Six images of noise, 7 x 5 pixels, each with another order, and factors for them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 7, 5, 3), generator=generator, dtype=torch.uint8)
    return images, 0.6 + 0.8 * torch.rand(6, 3, generator=generator), torch.arange(6, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_colour_jitter_then_scaled_and_shifted(dtype: torch.dtype) -> None:
    images, factors, order = batch()
    got = ops.jittered(images, factors, order, scale=SCALE, shift=SHIFT, dtype=dtype)
    exact = colours.color_jitter(images.double(), factors.double(), order)
    exact = exact * torch.tensor(SCALE, dtype=torch.float64) + torch.tensor(SHIFT, dtype=torch.float64)
    assert got.dtype is dtype
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=1e-5 if dtype is torch.float32 else 0.01)
    torch.library.opcheck(colours._jittered, (images, factors, order, SCALE, SHIFT, dtype))


def test_the_compilers_picture_of_it_is_channels_last_once_permuted() -> None:
    images, factors, order = batch()

    def function(images: torch.Tensor) -> torch.Tensor:
        x = ops.jittered(images, factors, order, scale=SCALE, shift=SHIFT).permute(0, 3, 1, 2)
        assert x.is_contiguous(memory_format=torch.channels_last)
        return 2 * x

    mirrored = images.flip(2).transpose(1, 2)  # strides that the result must not take over
    torch.testing.assert_close(torch.compile(function, fullgraph=True)(mirrored), function(mirrored))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(6, 7, 5, 3)}, r"^images\b.*float32 \[6, 7, 5, 3\].*uint8"),
        ({"images": torch.zeros(6, 3, 7, 5, dtype=torch.uint8)}, r"^images\b.*\[6, 3, 7, 5\]"),
        ({"factors": torch.ones(5, 3)}, r"^factors\b.*\[5, 3\].*\[6, 3\]"),
        ({"order": torch.zeros(6)}, r"^order\b.*float32.*uint8"),
        ({"scale": (0.5,)}, r"^scale\b.*\(0\.5,\)"),
        ({"dtype": torch.int64}, r"^dtype: got torch\.int64"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = dict(zip(("images", "factors", "order"), batch(), strict=True))
    with pytest.raises(ValueError, match=message):
        ops.jittered(**given | change)
