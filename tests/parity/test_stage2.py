"""Stage 2 against the released code's arithmetic, written out in float64."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastlt import RebalanceConfig
from fastlt.data import LongTailSampler
from fastlt.features.arrays import Features
from fastlt.metrics import shot_groups
from fastlt.models import LinearHead
from fastlt.rebalancing import learn_weight_scaling, retrain_classifier, tau_curve, tau_normalize
from fastlt.rebalancing.engine.sgd import HeadTraining
from fastlt.rebalancing.methods.crt import CRT
from fastlt.rebalancing.methods.lws import LWS
from fastlt.rebalancing.problem import Problem
from fastlt.schedule import cosine

C, D, BATCH = 5, 4, 12
COUNTS = np.array([30, 16, 9, 4, 1])
LABELS = np.repeat(np.arange(C), COUNTS)
FEATURES = (np.random.default_rng(0).normal(size=(len(LABELS), D)) + LABELS[:, None] / 4).astype(np.float32)
HEAD = LinearHead(
    torch.randn(C, D, generator=torch.Generator().manual_seed(1)) * torch.logspace(0.5, -0.5, C)[:, None],
    torch.randn(C, generator=torch.Generator().manual_seed(2)),
)
CONFIG = RebalanceConfig(epochs=2, batch_size=BATCH, lr=(0.3,), weight_decay=(0.02,), seed=7)

Array = NDArray[np.float64]
Gradient = Callable[[list[Array], Array, Array], list[Array]]


def by_hand(parameters: list[Array], gradient: Gradient) -> list[Array]:
    """SGD as torch.optim.SGD has it: v = 0.9 v + (g + decay p), p = p - lr v, the rate a cosine of the epoch."""
    sampler = LongTailSampler(
        LABELS, sampling="class_balanced", batch_size=BATCH, samples_per_class=1, seed=7, num_classes=C, num_epochs=2
    )
    velocity = [np.zeros_like(p) for p in parameters]
    per_epoch = len(LABELS) // BATCH
    for step in range(2 * per_epoch):
        ids = sampler.batch(step)
        rate = 0.3 * (1 + np.cos(np.pi * (step // per_epoch) / 2)) / 2
        gradients = gradient(parameters, FEATURES[ids].astype(np.float64), np.eye(C)[LABELS[ids]])
        velocity = [0.9 * v + g + 0.02 * p for v, g, p in zip(velocity, gradients, parameters, strict=True)]
        parameters = [p - rate * v for p, v in zip(parameters, velocity, strict=True)]
    return parameters


def softmax(z: Array) -> Array:
    e: Array = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def numbers(head: LinearHead) -> list[Array]:
    assert head.bias is not None
    return [head.weight.detach().double().numpy(), head.bias.detach().double().numpy()]


def test_classifier_retraining_step_by_step() -> None:
    def gradient(p: list[Array], x: Array, y: Array) -> list[Array]:
        error = (softmax(x @ p[0].T + p[1]) - y) / len(x)
        return [error.T @ x, error.sum(0)]

    start = numbers(LinearHead.initialised(C, D, generator=torch.Generator().manual_seed(7)))
    got = retrain_classifier(torch.from_numpy(FEATURES), torch.from_numpy(LABELS), C, config=CONFIG)
    for value, expected in zip(numbers(got), by_hand(start, gradient), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_weight_scaling_step_by_step() -> None:
    weight, bias = numbers(HEAD)

    def gradient(p: list[Array], x: Array, y: Array) -> list[Array]:
        z = x @ weight.T + bias  # the scale multiplies the bias too
        return [((softmax(z * p[0]) - y) / len(x) * z).sum(0)]

    (scale,) = by_hand([np.ones(C)], gradient)
    got = learn_weight_scaling(HEAD, torch.from_numpy(FEATURES), torch.from_numpy(LABELS), config=CONFIG)
    assert np.abs(scale - 1).max() > 0.02
    for value, expected in zip(numbers(got), (weight * scale[:, None], bias * scale), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_the_tau_sweep_as_21_products() -> None:
    x, y = torch.from_numpy(FEATURES), torch.from_numpy(LABELS)
    curve = tau_curve(HEAD, x, y, COUNTS)
    for tau in np.arange(21) / 10:
        weight = HEAD.weight.detach().double()
        scores = x.double() @ (weight / weight.norm(dim=1, keepdim=True) ** tau).T  # the bias is dropped
        right = (scores.argmax(1) == y).double()
        assert curve.value(tau, "all") == pytest.approx(right.mean().item(), abs=1e-9)
        by_class = np.mean([right[y == c].mean().item() for c in range(C)])
        assert curve.value(tau, "class_mean") == pytest.approx(by_class, abs=1e-9)
        normalized = tau_normalize(HEAD, float(tau))
        assert normalized.bias is None
        assert torch.equal(normalized(x).argmax(1), scores.argmax(1))


def test_groups_at_their_thresholds() -> None:
    groups = shot_groups([19, 20, 100, 101])
    assert groups["few"].tolist() == [True, False, False, False]
    assert groups["medium"].tolist() == [False, True, True, False]
    assert groups["many"].tolist() == [False, False, False, True]


RELEASED_10 = [0.19511, 0.1809, 0.15878, 0.1309, 0.1, 0.0691, 0.04122, 0.0191, 0.00489, 0.0]
RELEASED_5 = [0.1809, 0.1309, 0.0691, 0.0191, 0.0]


@pytest.mark.parametrize("released", [RELEASED_10, RELEASED_5])
def test_learning_rates(released: list[float]) -> None:
    epochs = len(released)
    rates = [0.2 * cosine(epoch, epochs, "released") for epoch in range(epochs)]
    assert rates == pytest.approx(released, abs=5e-6)
    paper = [0.2 * cosine(epoch, epochs, "paper") for epoch in range(epochs)]
    assert paper == pytest.approx([0.2, *released[:-1]], abs=5e-6)


@pytest.mark.parametrize(
    ("method", "dataset", "epochs"),
    [("crt", "imagenet_lt", 10), ("crt", "inat2018", 30), ("lws", "imagenet_lt", 5), ("lws", "inat2018", 5)],
)
def test_epochs_and_rates_by_default(method: str, dataset: str, epochs: int) -> None:
    train = Features(features=np.zeros((1024, 2), np.float32), labels=np.arange(1024) % 2)
    problem = dataclasses.replace(Problem.of_features(LinearHead(torch.ones(2, 2)), train), dataset=dataset)
    retraining = {"crt": CRT, "lws": LWS}[method]
    training = HeadTraining.of(retraining, problem, RebalanceConfig(method=method))
    assert (training.epochs, training.batch_size, training.samples_per_class) == (epochs, 512, 1)
    assert training.settings == ((pytest.approx(0.2), 1e-4 if dataset == "inat2018" else 5e-4),)
    released = HeadTraining.of(
        retraining, problem, RebalanceConfig(method=method, protocol="released", features="live")
    )
    assert released.samples_per_class == 4
