"""Features in memory: what they are made of, and their checks."""

import re

import numpy as np
import pytest
import torch

from fastlt.features.arrays import Features

CPU = torch.device("cpu")


def random_features(count: int = 20, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


def test_features_are_made_of_tensors_and_arrays() -> None:
    x, y = random_features(), torch.arange(20) % 3
    for features in (Features.of(x, y), Features.of(x.double().numpy(), y.int().numpy())):
        assert (len(features), features.num_features) == (20, 6)
        for got, expected in zip(features.tensors(CPU), (x, y), strict=True):
            torch.testing.assert_close(got, expected)
        torch.testing.assert_close(features.rows(np.array([3, 3, 0]), CPU), x[[3, 3, 0]])
        assert features.take(np.array([5, 1])).labels.tolist() == [2, 1]


@pytest.mark.parametrize(("shape", "count"), [((4,), 4), ((4, 2), 3), ((0, 2), 0)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(ValueError, match=rf"^features: .*{re.escape(str(list(shape)))}.*\[{count}\]"):
        Features.of(torch.zeros(shape), torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize("labels", [[0.0, 1.7], [0, -1]])
def test_labels_are_integers_from_0_up(labels: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^features: got labels .* from (0\.0|-1) up; expected integers"):
        Features.of(torch.zeros(2, 3), labels)


def test_features_that_are_not_finite_are_counted() -> None:
    x = random_features()
    x[3, 1], x[7, 0], x[7, 2] = float("nan"), float("inf"), float("nan")
    with pytest.raises(ValueError, match=r"^features of val: .*\b2 of 20 .*NaN"):
        Features.of(x, torch.zeros(20, dtype=torch.long), name="features of val")
