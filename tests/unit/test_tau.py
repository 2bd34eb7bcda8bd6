"""tau-normalization of a head."""

import pytest
import torch

from fastlt.models import LinearHead
from fastlt.rebalancing import tau_normalize


def head() -> LinearHead:
    generator = torch.Generator().manual_seed(0)
    return LinearHead(torch.randn(5, 7, generator=generator), torch.randn(5, generator=generator))


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 2.0])
def test_weights_are_divided_by_a_power_of_their_norm(tau: float) -> None:
    weight = head().weight.detach()
    expected = torch.stack([row / row.norm() ** tau for row in weight])
    made = tau_normalize(head(), tau)
    torch.testing.assert_close(made.weight.detach(), expected)
    assert made.bias is None


def test_tau_one_gives_unit_norms() -> None:
    torch.testing.assert_close(tau_normalize(head(), 1.0).norms(), torch.ones(5))


def test_a_zero_row_stays_zero() -> None:
    weight = head().weight.detach().clone()
    weight[2] = 0
    made = tau_normalize(LinearHead(weight), 0.7)
    assert (made.weight[2] == 0).all()
    assert torch.isfinite(made.weight).all()


def test_the_input_is_left_alone() -> None:
    given = head()
    before = given.weight.detach().clone()
    tau_normalize(given, 0.5)
    assert torch.equal(given.weight, before)


@pytest.mark.parametrize("tau", [-0.1, float("nan"), float("inf")])
def test_bad_tau(tau: float) -> None:
    with pytest.raises(ValueError, match="tau: got"):
        tau_normalize(head(), tau)


def test_weights_of_a_diverged_run() -> None:
    weight = torch.full((2, 2), float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        tau_normalize(LinearHead(weight), 0.5)


def test_a_tau_that_leaves_the_range_of_floats() -> None:
    with pytest.raises(ValueError, match="--tau: got 1000, which takes weights out of"):
        tau_normalize(LinearHead(head().weight.detach() / 100), 1000.0)
