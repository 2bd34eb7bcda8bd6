"""The exact intervals against brute force: every decision, on the rows that conventions have to settle too."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastlt.ops import prior_intervals, tau_intervals

TAUS = torch.tensor([-1.37, -0.21, 0.1234, 0.4711, 0.7713, 1.2347, 1.777, 2.953], dtype=torch.float64)


@st.composite
def integer_problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Products of small integers are exact, so duplicated, zero, opposite and equal-norm classes tie exactly."""
    classes, width, num = draw(st.integers(1, 7)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    entries = st.integers(*draw(st.sampled_from([(-3, 3), (0, 3), (-3, 0), (1, 2)])))
    rows = st.lists(entries, min_size=width, max_size=width)
    pool = draw(st.lists(rows, min_size=1, max_size=classes))
    weight = [pool[draw(st.integers(0, len(pool) - 1))] for _ in range(classes)]
    features = draw(st.lists(st.lists(st.integers(-3, 3), min_size=width, max_size=width), min_size=num, max_size=num))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=num, max_size=num))
    return torch.tensor(features), torch.tensor(weight), torch.tensor(labels)


def decide(height: Tensor, slope: Tensor, labels: Tensor, tau: Tensor, log: bool) -> tuple[Tensor, Tensor]:
    """Whether each label is the first largest at each row's tau, and whether no rival is too close to say."""
    scores = height / torch.exp2(tau[:, None] * slope) if log else height - tau[:, None] * slope
    own_score, own_height = (t.gather(1, labels[:, None]) for t in (scores, height))
    before = torch.arange(height.shape[1]) < labels[:, None]
    same = (height == own_height) & (slope == slope[labels][:, None])
    same |= log & (height == 0) & (own_height == 0)
    wins = torch.where(same, ~before, own_score > scores)
    wins.scatter_(1, labels[:, None], True)
    gap = (own_score - scores).abs() / torch.maximum(own_score.abs(), scores.abs()).clamp_min(1e-3)
    return wins.all(1), (same | (gap > 3e-6)).all(1)


def assert_decides(low: Tensor, high: Tensor, height: Tensor, slope: Tensor, labels: Tensor, log: bool) -> None:
    low, high = low.double(), high.double()
    never = ~(low < high)
    assert not low.isnan().any()
    assert not high.isnan().any()
    assert (low[never] == float("inf")).all()
    assert (high[never] == float("-inf")).all()
    probes = list(TAUS.expand(len(labels), -1).T)
    for end, sign in ((low, 1), (low, -1), (high, 1), (high, -1)):  # on both sides of both ends, too
        probes.append(torch.where(end.abs() < 50, end + sign * 1e-3, 0.3))
    for tau in probes:
        right, sure = decide(height, slope, labels, tau, log)
        assert torch.equal(((low < tau) & (tau < high))[sure], right[sure])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@settings(max_examples=300, deadline=None)
@given(problem=integer_problems())
def test_tau_intervals_decide_as_brute_force_on_nasty_rows(
    dtype: torch.dtype, problem: tuple[Tensor, Tensor, Tensor]
) -> None:
    features, weight, labels = problem
    low, high = tau_intervals(features.to(dtype), weight.to(dtype), labels)
    norms = torch.linalg.vector_norm(weight.double(), dim=1)
    slope = torch.where(norms > 0, norms, 1.0).log2()
    assert_decides(low, high, (features @ weight.T).double(), slope, labels, log=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@settings(max_examples=150, deadline=None)
@given(problem=integer_problems(), data=st.data())
def test_prior_intervals_decide_as_brute_force(
    dtype: torch.dtype, problem: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    features, weight, labels = problem
    classes = len(weight)
    integers = st.lists(st.integers(-2, 2), min_size=classes, max_size=classes)
    prior, bias = (torch.tensor(data.draw(integers), dtype=dtype) for _ in range(2))
    low, high = prior_intervals(features.to(dtype), weight.to(dtype), labels, prior, bias=bias)
    assert_decides(low, high, (features @ weight.T).double() + bias.double(), prior.double(), labels, log=False)


@pytest.mark.parametrize("shape", [(60, 211, 33), (700, 130, 17), (3, 1, 5)])
def test_float32_agrees_with_float64_brute_force(shape: tuple[int, int, int]) -> None:
    num, classes, width = shape
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(classes, width, generator=generator) * torch.logspace(0, -1, classes)[:, None]
    labels = torch.randint(0, classes, (num,), generator=generator)
    features = weight[labels] / weight[labels].norm(dim=1, keepdim=True) + torch.randn(num, width, generator=generator)
    features[: num // 4] = -8 * weight.mean(0) - features[: num // 4]
    low, high = tau_intervals(features, weight, labels)
    z, norms = features.double() @ weight.double().T, torch.linalg.vector_norm(weight.double(), dim=1)
    checked = 0
    for tau in torch.linspace(-1, 3, 81, dtype=torch.float64):
        right, sure = decide(z, norms.log2(), labels, tau.expand(num), log=True)
        assert torch.equal(((low < tau) & (tau < high))[sure], right[sure])
        checked += int(sure.sum())
    assert checked > 0.95 * 81 * num


def test_duplicates_tie_wherever_the_product_puts_them() -> None:
    generator = torch.Generator().manual_seed(2)
    for classes, dtype in ((33, torch.float64), (365, torch.float64), (33, torch.float32)):
        row = torch.randn(1, 77, generator=generator, dtype=dtype)
        features = torch.randn(40, 77, generator=generator, dtype=dtype)
        labels = torch.arange(40) % classes
        low, high = tau_intervals(features, row.expand(classes, -1).contiguous(), labels)
        assert torch.equal(low < high, labels == 0)


def test_all_negative_row_is_won_from_below() -> None:
    weight = torch.tensor([[-1.0, 0.0], [-4.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    low, high = tau_intervals(torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64), weight, torch.tensor([0, 1, 2]))
    # Logits -1, -4, -2 over norms^tau: below tau = 1 the first is the largest, above it the second.
    assert np.allclose(low.tolist(), [-np.inf, 1.0, np.inf])
    assert np.allclose(high.tolist(), [1.0, np.inf, -np.inf])


def test_zero_logits_and_zero_classes() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    features = torch.tensor([[0.0, 0.0], [-1.0, -1.0], [-1.0, -1.0], [1.0, 0.0], [0.0, 0.0]])
    low, high = tau_intervals(features, weight, torch.tensor([0, 0, 1, 0, 2]))
    assert (low < high).tolist() == [True, True, False, False, False]
    assert low[:2].isneginf().all()
    assert high[:2].isposinf().all()


@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e38])
def test_no_nan_from_finite_input(scale: float) -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(50, 9, generator=generator).clamp(-1, 1) * scale
    weight = torch.randn(21, 9, generator=generator).clamp(-1, 1) * scale
    weight[3], weight[7] = weight[2], 0.0
    labels = torch.arange(50) % 21
    for low, high in (tau_intervals(features, weight, labels), prior_intervals(features, weight, labels, weight[:, 0])):
        assert not low.isnan().any()
        assert not high.isnan().any()


def test_empty_half_types_and_any_strides() -> None:
    weight = torch.randn(11, 6, generator=torch.Generator().manual_seed(4))
    assert tau_intervals(torch.empty(0, 6), weight, torch.empty(0, dtype=torch.int64))[0].shape == (0,)
    features = torch.randn(6, 20, generator=torch.Generator().manual_seed(5)).T
    labels = torch.arange(40)[::2] % 11
    expected = tau_intervals(features.contiguous(), weight, labels.contiguous())
    for got, wanted in zip(tau_intervals(features, weight.T.contiguous().T, labels.int()), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    half = tau_intervals(features.bfloat16(), weight.bfloat16(), labels)
    rounded = tau_intervals(features.bfloat16().float(), weight.bfloat16().float(), labels)
    assert half[0].dtype is torch.float32
    assert torch.equal(half[0], rounded[0])
