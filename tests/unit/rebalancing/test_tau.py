"""tau-normalization of a head."""

import pytest
import torch
from torch.nn import functional as F

from fastlt.features.arrays import Features
from fastlt.models import LinearHead
from fastlt.rebalancing import tau_normalize
from fastlt.rebalancing.methods.tau import learn_tau
from fastlt.rebalancing.problem import Problem


def head() -> LinearHead:
    generator = torch.Generator().manual_seed(0)
    return LinearHead(torch.randn(5, 7, generator=generator), torch.randn(5, generator=generator))


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 2.0])
def test_weights_are_divided_by_a_power_of_their_norm(tau: float) -> None:
    weight = head().weight.detach()
    expected = torch.stack([row / row.norm() ** tau for row in weight])
    normalized = tau_normalize(head(), tau)
    torch.testing.assert_close(normalized.weight.detach(), expected)
    assert normalized.bias is None


def test_tau_one_gives_unit_norms() -> None:
    torch.testing.assert_close(tau_normalize(head(), 1.0).norms(), torch.ones(5))


def test_a_zero_row_stays_zero() -> None:
    weight = head().weight.detach().clone()
    weight[2] = 0
    normalized = tau_normalize(LinearHead(weight), 0.7)
    assert (normalized.weight[2] == 0).all()
    assert torch.isfinite(normalized.weight).all()


def test_the_input_is_left_alone() -> None:
    joint = head()
    before = joint.weight.detach().clone()
    tau_normalize(joint, 0.5)
    assert torch.equal(joint.weight, before)


@pytest.mark.parametrize("tau", [-0.1, float("nan"), float("inf")])
def test_bad_tau(tau: float) -> None:
    with pytest.raises(ValueError, match=rf"^tau: got {tau}\b"):
        tau_normalize(head(), tau)


def test_weights_of_a_diverged_run() -> None:
    weight = torch.full((2, 2), float("nan"))
    with pytest.raises(ValueError, match=r"^head: .*not finite"):
        tau_normalize(LinearHead(weight), 0.5)


def test_a_tau_that_leaves_the_range_of_floats() -> None:
    with pytest.raises(ValueError, match=r"^--tau: got 1000\b.*torch\.float32"):
        tau_normalize(LinearHead(head().weight.detach() / 100), 1000.0)


@pytest.mark.parametrize("true", [-0.5, 0.46, 1.55, 2.6])
def test_learned_tau_is_the_best_of_a_fine_scan(true: float) -> None:
    """The labels follow a head's products at a tau; class-balanced cross entropy, norms relative, without the bias."""
    generator = torch.Generator().manual_seed(2)
    directions, features = (
        F.normalize(torch.randn(8, 6, generator=generator)),
        torch.randn(3000, 6, generator=generator),
    )
    norms = torch.logspace(0.5, -0.5, 8)
    labels = torch.multinomial((features @ (4 * directions * norms[:, None]).T).softmax(1), 1, generator=generator)[
        :, 0
    ]
    head = LinearHead(4 * directions * norms[:, None] ** (1 / (1 - true)), torch.linspace(-2, 2, 8))
    logs = head.weight.detach().norm(dim=1).double().log()
    products, share = features.double() @ head.weight.detach().double().T, 1 / labels.bincount()[labels].double()
    taus = [index / 100 for index in range(201)]
    losses = [
        (share * F.cross_entropy(products * torch.exp(-tau * (logs - logs.mean())), labels, reduction="none")).sum()
        for tau in taus
    ]
    best = taus[int(torch.stack(losses).argmin())]
    learned = learn_tau(Problem.of_features(head, Features.of(features, labels)))
    assert learned == pytest.approx(best, abs=0.0065)
