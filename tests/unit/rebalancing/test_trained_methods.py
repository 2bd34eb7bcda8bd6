"""The methods that train, step by step as autograd and torch.optim.SGD have them in float64."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastlt import RebalanceConfig
from fastlt.data import LongTailSampler
from fastlt.features.arrays import Features
from fastlt.losses import batch_loss
from fastlt.models import LinearHead
from fastlt.rebalancing import learn_weight_scaling, retrain_classifier
from fastlt.rebalancing.methods.registry import fit
from fastlt.rebalancing.problem import Problem, RebalancedHead

C, D, BATCH, EPOCHS, DECAY = 5, 4, 12, 5, 0.02
COUNTS = torch.tensor([30, 16, 9, 4, 1])
LABELS = torch.arange(C).repeat_interleave(COUNTS)
FEATURES = torch.from_numpy(np.random.default_rng(0).normal(size=(60, D)).astype(np.float32)) + LABELS[:, None] / 4
HEAD = LinearHead(
    torch.randn(C, D, generator=torch.Generator().manual_seed(1)) * torch.logspace(0.5, -0.5, C)[:, None],
    torch.randn(C, generator=torch.Generator().manual_seed(2)),
)
CONFIG = RebalanceConfig(epochs=EPOCHS, batch_size=BATCH, lr=(0.3,), weight_decay=(DECAY,), seed=7)


def result_of(method: str, **changes: object) -> RebalancedHead:
    problem = Problem.of_features(HEAD, Features.of(FEATURES, LABELS))
    config = dataclasses.replace(CONFIG, method=method, **changes)  # type: ignore[arg-type]
    return fit(problem, config)[method]


def made_by(method: str, **changes: object) -> LinearHead:
    return result_of(method, **changes).head


def train(
    parameters: list[Tensor],
    loss: Callable[[Tensor, Tensor, float], Tensor],
    *,
    sampling: str = "class_balanced",
    lr: float = 0.3,
    project: Callable[[], None] = lambda: None,
) -> None:
    """Train by SGD; `loss` takes features, labels and the share of the epochs done."""
    sampler = LongTailSampler(LABELS, sampling=sampling, batch_size=BATCH, seed=7, num_classes=C, num_epochs=EPOCHS)
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=DECAY)
    for step in range(EPOCHS * (len(LABELS) // BATCH)):
        epoch = step // (len(LABELS) // BATCH)
        optimizer.param_groups[0]["lr"] = lr * (1 + np.cos(np.pi * epoch / EPOCHS)) / 2
        ids = torch.from_numpy(sampler.batch(step))
        optimizer.zero_grad()
        loss(FEATURES[ids].double(), LABELS[ids], epoch / EPOCHS).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            project()


def trainable(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().double().clone().requires_grad_() for tensor in tensors]


def initialised() -> LinearHead:
    return LinearHead.initialised(C, D, generator=torch.Generator().manual_seed(7))


def check(got: LinearHead, weight: Tensor, bias: Tensor | None) -> None:
    torch.testing.assert_close(got.weight.detach().double(), weight.detach(), rtol=1e-4, atol=1e-5)
    assert (got.bias is None) == (bias is None)
    if got.bias is not None and bias is not None:
        torch.testing.assert_close(got.bias.detach().double(), bias.detach(), rtol=1e-4, atol=1e-5)


def test_cosine_learns_its_scale_from_16() -> None:
    weight, log_scale = trainable(initialised().weight, torch.tensor([16.0]).log())
    center = FEATURES.double().mean(0)

    def loss(x: Tensor, y: Tensor, _: float) -> Tensor:
        return F.cross_entropy(log_scale.exp() * (F.normalize(x - center) @ F.normalize(weight).T), y)

    train([weight, log_scale], loss, lr=0.003)
    assert 1 < log_scale.exp().item() < 15  # moved, and not vanished
    folded = F.normalize(weight) * log_scale.exp()
    check(made_by("cosine", lr=(0.003,)), folded, -folded @ center)


def test_max_norm_stays_within_the_median_norm_from_the_joint_head_on() -> None:
    weight, bias = trainable(HEAD.weight, HEAD.bias)
    radius = weight.detach().norm(dim=1).median()

    def project() -> None:
        weight.mul_((radius / weight.norm(dim=1, keepdim=True)).clamp(max=1))

    train([weight, bias], lambda x, y, _: F.cross_entropy(x @ weight.T + bias, y), project=project)
    assert (weight.norm(dim=1) < 0.99 * radius).any()
    check(made_by("max_norm"), weight, bias)


@pytest.mark.parametrize("rate", [0.3, None])
def test_over_smoothing_starts_from_zero_at_the_inverse_of_its_curvature(rate: float | None) -> None:
    x = FEATURES.double()
    curvature = torch.linalg.eigvalsh(x.T @ x / len(x))[-1].item() / C
    weight, bias = trainable(torch.zeros(C, D), torch.zeros(C))

    def loss(x: Tensor, y: Tensor, _: float) -> Tensor:
        return F.cross_entropy(x @ weight.T + bias, y, label_smoothing=0.9)

    train([weight, bias], loss, lr=rate or 1 / curvature)
    result = result_of("los", lr=(rate,) if rate else (), label_smoothing=0.9)
    check(result.head, weight, bias)
    assert result.params == {"smoothing": 0.9}


@pytest.mark.parametrize("loss", ["balanced_softmax", "cb_focal"])
def test_retraining_under_a_loss_draws_instance_balanced(loss: str) -> None:
    weight, bias = trainable(initialised().weight, initialised().bias)
    train(
        [weight, bias],
        lambda x, y, share: batch_loss(loss, x @ weight.T + bias, y, COUNTS, epoch_fraction=share),
        sampling="instance_balanced",
    )
    config = dataclasses.replace(CONFIG, method="crt", loss=loss)
    check(retrain_classifier(FEATURES, LABELS, C, config=config), weight, bias)


def test_retraining_under_ldam_has_its_scale_and_weighs_the_last_fifth_of_the_epochs() -> None:
    (weight,) = trainable(initialised().weight)

    def loss(x: Tensor, y: Tensor, share: float) -> Tensor:
        return batch_loss("ldam", F.normalize(x) @ F.normalize(weight).T, y, COUNTS, epoch_fraction=share)

    train([weight], loss, sampling="instance_balanced")
    check(made_by("crt", loss="ldam"), 30 * F.normalize(weight), None)


def test_defaults_are_the_papers() -> None:
    """Epochs by method, and a learning rate in proportion to the batch, of at most all images."""
    given = {"batch_size": 600, "weight_decay": (5e-4,), "lr": (0.2 / 512 * 60,)}
    for method, epochs in (("crt", 10), ("lws", 5)):
        plain = RebalanceConfig(method=method, batch_size=600)
        full = dataclasses.replace(plain, epochs=epochs, **given)  # type: ignore[arg-type]
        heads = [
            retrain_classifier(FEATURES, LABELS, C, config=config)
            if method == "crt"
            else learn_weight_scaling(HEAD, FEATURES, LABELS, config=config)
            for config in (plain, full)
        ]
        assert torch.equal(heads[0].weight, heads[1].weight)


def small_tail() -> Problem:
    """Twelve classes of 900 to 4 images with features as after a ReLU: a batch of 512 makes few steps an epoch."""
    counts = np.geomspace(900, 4, 12).astype(int)
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), counts)
    features = np.abs(generator.normal(size=(12, 32)))[labels] + 0.1 * np.abs(generator.normal(size=(len(labels), 32)))
    train = Features.of(features + 2, labels)
    return Problem.of_features(LinearHead(torch.from_numpy(features[:12]).float() * 0.01), train)


@pytest.mark.parametrize("method", ["crt", "lws", "max_norm", "cosine"])
def test_default_epochs_go_on_while_classes_are_never_right(method: str, caplog: pytest.LogCaptureFixture) -> None:
    problem = small_tail()
    short = fit(problem, RebalanceConfig(method=method, epochs=1))[method]
    warned = "not converged" in caplog.text
    caplog.clear()
    result = fit(problem, RebalanceConfig(method=method))[method]
    (x, y), head = problem.training_tensors(), result.head
    missed = set(range(12)) - set(y[head(x).argmax(1) == y].tolist())
    assert bool(missed) == ("not converged" in caplog.text)
    assert warned == bool(set(range(12)) - set(y[short.head(x).argmax(1) == y].tolist()))
    if missed:
        assert result.params["epochs"] >= 40
    if method == "crt":
        assert (warned, missed) == (True, set())
