"""Every method of stage 2 on features of a long-tailed problem, where the joint classifier neglects the tail."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from fastlt import RebalanceConfig
from fastlt.config import METHODS
from fastlt.features.arrays import Features
from fastlt.metrics import shot_accuracy
from fastlt.models import LinearHead
from fastlt.rebalancing import (
    adjust_logits,
    learn_weight_scaling,
    nearest_class_mean,
    retrain_classifier,
    tau_normalize,
)
from fastlt.rebalancing.curve import prior_curve, tau_curve
from fastlt.rebalancing.engine.cached import train_grid
from fastlt.rebalancing.engine.sgd import HeadTraining
from fastlt.rebalancing.methods.crt import CRT
from fastlt.rebalancing.methods.registry import REGISTRY, find, fit, uses_training_features
from fastlt.rebalancing.problem import Problem

CPU = torch.device("cpu")
C, D = 20, 16
COUNTS = np.geomspace(400, 5, C).astype(np.int64)


def split(seed: int, counts: np.ndarray) -> Features:
    centres = np.random.default_rng(0).normal(size=(C, D)) * 1.2
    labels = np.repeat(np.arange(C), counts)
    noise = np.random.default_rng(seed).normal(size=(len(labels), D))
    return Features(features=np.maximum(centres[labels] + noise, 0).astype(np.float32), labels=labels)


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Features of 20 classes and the classifier that instance-balanced training makes of them."""
    base = Problem(
        head=LinearHead(torch.zeros(C, D)),
        train=(split(1, COUNTS),),
        selection=split(2, np.full(C, 30)),
        selected_on="val",
        class_counts=COUNTS,
        device=CPU,
        batch_size=64,
    )
    config = RebalanceConfig(method="crt", epochs=10, batch_size=64, lr=(0.1,))
    training = dataclasses.replace(HeadTraining.of(CRT, base, config), sampling="instance_balanced")
    grid = CRT.start(base.head, config, 1)
    train_grid(grid, training, base)
    return dataclasses.replace(base, head=grid.head(0))


SETTINGS = {"lr": (0.05,), "epochs": 30}  # few images, few steps an epoch


def class_mean(head: LinearHead) -> float:
    test = split(3, np.full(C, 60))
    with torch.inference_mode():
        predictions = head(torch.from_numpy(test.features)).argmax(1).numpy()
    return shot_accuracy(predictions, test.labels, COUNTS).class_mean


def test_every_method_has_one_row_and_its_name_in_config() -> None:
    assert tuple(REGISTRY) == tuple(METHODS)


def test_all_fits_every_method_and_each_helps_the_tail(problem: Problem) -> None:
    rebalanced = fit(problem, RebalanceConfig(method="all", **SETTINGS))
    assert tuple(rebalanced) == tuple(METHODS)
    joint = class_mean(problem.head)
    for name, each in rebalanced.items():
        assert class_mean(each.head) > joint + 0.02, name
        assert each.head.weight.shape == (C, D)
        assert each.selected_on == ("val" if name in ("tau", "logit_adjustment") else None), name
    assert rebalanced["tau"].params["tau"] > 0
    assert rebalanced["logit_adjustment"].params["strength"] > 0


@pytest.mark.parametrize("loss", ["balanced_softmax", "cb_focal", "ldam"])
def test_the_losses_help_the_tail_too(loss: str, problem: Problem) -> None:
    rebalanced = fit(problem, RebalanceConfig(method="crt", loss=loss, **SETTINGS))["crt"]
    assert class_mean(rebalanced.head) > class_mean(problem.head) + 0.02


@pytest.mark.parametrize("select_by", ["all", "class_mean", "few"])
def test_the_accuracy_that_is_asked_for_chooses_tau_and_strength(select_by: str, problem: Problem) -> None:
    selection = split(4, np.geomspace(200, 3, C).astype(np.int64))  # long-tailed too: the accuracies disagree
    tailed = dataclasses.replace(problem, selection=selection)
    x, y = selection.tensors(CPU)
    for name, key, curve, make in (
        ("tau", "tau", tau_curve, tau_normalize),
        ("logit_adjustment", "strength", prior_curve, lambda head, tau: adjust_logits(head, COUNTS, tau)),
    ):
        rebalanced = find(name).fit(tailed, RebalanceConfig(method=name, select_by=select_by))
        accuracy = curve(problem.head, x, y, COUNTS)
        choices = {each: accuracy.best(each).tau for each in ("all", "class_mean", "few")}
        assert len(set(choices.values())) == 3
        assert (rebalanced.params, rebalanced.selected_on) == ({key: choices[select_by]}, "val")
        expected = make(problem.head, choices[select_by])
        for got, wanted in zip(rebalanced.head.parameters(), expected.parameters(), strict=True):
            assert torch.equal(got, wanted)


def test_only_what_looks_at_the_training_images_needs_their_features() -> None:
    without = {name for name in METHODS if not uses_training_features(RebalanceConfig(method=name))}
    assert without == {"tau", "logit_adjustment"}
    assert uses_training_features(RebalanceConfig(method="tau", tau="learned"))
    assert uses_training_features(RebalanceConfig(method="all"))


def test_learned_tau(problem: Problem) -> None:
    rebalanced = fit(problem, RebalanceConfig(method="tau", tau="learned"))["tau"]
    assert 0 < rebalanced.params["tau"] < 2
    assert rebalanced.selected_on is None
    assert class_mean(rebalanced.head) > class_mean(problem.head) + 0.02


def test_fixed_settings_are_kept(problem: Problem) -> None:
    tau = fit(problem, RebalanceConfig(method="tau", tau="0.7"))["tau"]
    assert (tau.params, tau.selected_on) == ({"tau": 0.7}, None)
    adjusted = fit(problem, RebalanceConfig(method="logit_adjustment", strength="1"))["logit_adjustment"]
    assert (adjusted.params, adjusted.selected_on) == ({"strength": 1.0}, None)


def test_a_grid_names_what_it_chose(problem: Problem) -> None:
    config = RebalanceConfig(method="lws", lr=(0.01, 0.1), weight_decay=(0.0, 5e-4))
    rebalanced = fit(problem, config)["lws"]
    assert rebalanced.selected_on == "val"
    assert rebalanced.params["lr"] in config.lr
    assert rebalanced.params["weight_decay"] in config.weight_decay
    assert rebalanced.head.bias is not None


def test_the_same_seed_gives_the_same_classifier(problem: Problem) -> None:
    one, same, other = (
        fit(problem, RebalanceConfig(method="crt", epochs=2, seed=seed))["crt"].head.weight for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_logit_adjustment_adds_a_bias_and_says_so(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bare = dataclasses.replace(problem, head=LinearHead(problem.head.weight.detach()))
    with caplog.at_level(logging.INFO, logger="fastlt"):
        rebalanced = fit(bare, RebalanceConfig(method="logit_adjustment", strength="0.5"))["logit_adjustment"]
    assert rebalanced.head.bias is not None
    expected = torch.from_numpy(-0.5 * np.log(COUNTS / COUNTS.sum())).float()
    torch.testing.assert_close(rebalanced.head.bias.detach(), expected)
    assert "added a bias" in caplog.text


def test_adjusted_logits(problem: Problem) -> None:
    rebalanced = adjust_logits(problem.head, COUNTS, 1.5)
    x = torch.from_numpy(problem.selection.features[:5])
    expected = problem.head(x) - 1.5 * torch.from_numpy(np.log(COUNTS / COUNTS.sum())).float()
    torch.testing.assert_close(rebalanced(x), expected)
    with pytest.raises(ValueError, match=r"^class_counts: .*class 2\b"):
        adjust_logits(problem.head, np.where(np.arange(C) == 2, 0, COUNTS))
    with pytest.raises(ValueError, match=r"^class_counts: .*\[19\].*\[20\]"):
        adjust_logits(problem.head, COUNTS[1:])
    with pytest.raises(ValueError, match=r"^tau: got -1\b"):
        adjust_logits(problem.head, COUNTS, -1)


def test_class_counts_may_lie_on_a_gpu(problem: Problem) -> None:
    class OnGpu(torch.Tensor):
        """NumPy cannot read one from there."""

        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    rebalanced = adjust_logits(problem.head, torch.from_numpy(COUNTS).as_subclass(OnGpu))
    expected = adjust_logits(problem.head, COUNTS)
    assert rebalanced.bias is not None
    assert expected.bias is not None
    assert torch.equal(rebalanced.bias, expected.bias)


def test_functions_refuse_what_they_cannot_use(problem: Problem) -> None:
    x, y = torch.from_numpy(problem.train[0].features), torch.from_numpy(problem.train[0].labels)
    bad = x.clone()
    bad[7, 3] = float("nan")
    for call in (
        lambda f: retrain_classifier(f, y, C),
        lambda f: learn_weight_scaling(problem.head, f, y),
        lambda f: nearest_class_mean(f, y, C),
    ):
        with pytest.raises(ValueError, match=r"^features: .*\b1 of .*NaN[^\n]*$"):
            call(bad)
    with pytest.raises(ValueError, match=r"^features: .*class 20\b"):
        retrain_classifier(x, y, C + 1)
    with pytest.raises(ValueError, match=r"^labels: .*class 20\b"):
        nearest_class_mean(x, y, C + 1)
    with pytest.raises(ValueError, match=r"^features: .*\b15\b.*\b16\b"):
        learn_weight_scaling(problem.head, x[:, 1:], y)
    with pytest.raises(ValueError, match=r"^lr: got 2\b"):
        retrain_classifier(x, y, C, config=RebalanceConfig(method="crt", lr=(0.1, 0.2)))


def test_over_smoothing_does_without_a_tuned_rate() -> None:
    """Few classes, wide features far from zero, and a step or two an epoch: what a fixed rate made diverge."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(6, 512, generator=generator) * 4
    labels = torch.arange(6).repeat_interleave(torch.tensor([200, 80, 30, 12, 5, 2]))
    features = centres[labels] + torch.randn(len(labels), 512, generator=generator)
    head = LinearHead.initialised(6, 512, generator=generator)
    problem = Problem.of_features(head, Features.of(features, labels))
    rebalanced = fit(problem, RebalanceConfig(method="los", batch_size=256))["los"]
    fresh = centres.repeat_interleave(20, 0) + torch.randn(120, 512, generator=generator)
    assert (rebalanced.head(fresh).argmax(1) == torch.arange(6).repeat_interleave(20)).float().mean() > 0.95
