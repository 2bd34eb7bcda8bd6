"""Without val: settings, accuracies and temperatures by folds of the training images."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from fastlt import RebalanceConfig, rebalance_model
from fastlt.evaluation.predictions import Predictions, predict
from fastlt.features import Features
from fastlt.metrics import shot_accuracy
from fastlt.models import LinearHead
from fastlt.rebalancing import Problem, RebalancedHead, register
from fastlt.rebalancing.choosing import try_methods
from fastlt.rebalancing.methods.tau import tau_normalize
from fastlt.rebalancing.validation import TrainFolds, ValidationSplit, unchanged, validate

COUNTS = (60, 25, 10, 5, 2, 1)
LABELS = np.repeat(np.arange(len(COUNTS)), COUNTS)
TAU = RebalanceConfig(method="tau")


def problem_of(*, width: int = 8, noise: float = 1.0, seed: int = 0) -> Problem:
    """Classes around corners, and a joint head with longer weights for larger classes."""
    draws = np.random.default_rng(seed)
    corners = 2 * np.eye(len(COUNTS), width)
    features = torch.from_numpy(corners[LABELS] + noise * draws.normal(size=(len(LABELS), width))).float()
    weight = torch.from_numpy(corners).float() * torch.tensor(COUNTS)[:, None] ** 0.3
    return Problem.of_features(LinearHead(weight, torch.zeros(len(COUNTS))), Features.of(features, LABELS))


def memorising(problem: Problem) -> Problem:
    """The problem with a joint head that has every training image right."""
    features, labels = problem.training_tensors()
    targets = torch.nn.functional.one_hot(labels, len(COUNTS)).double()
    weight = torch.linalg.lstsq(features.double(), targets).solution.T.float()
    return dataclasses.replace(problem, head=LinearHead(weight, torch.zeros(len(COUNTS))))


def accuracy(predictions: Predictions, by: str = "all") -> float:
    return float(getattr(shot_accuracy(predictions.classes, predictions.labels, COUNTS), by))


def held_out(folds: TrainFolds, config: RebalanceConfig) -> Predictions:
    return folds.held_out(config, folds.fit(config), unchanged)[config.methods[0]]


def test_a_head_that_has_learned_noise_by_heart_is_seen_through() -> None:
    problem = problem_of(width=200)
    shuffled = np.random.default_rng(1).permutation(problem.train[0].features)
    problem = memorising(dataclasses.replace(problem, train=(Features.of(shuffled, LABELS),)))
    assert accuracy(predict(problem.head, *problem.training_tensors())) == 1.0
    folds = TrainFolds(problem, seed=0)
    assert accuracy(folds.joint, "class_mean") < 0.4  # chance is 0.2
    assert accuracy(held_out(folds, RebalanceConfig(method="ncm")), "class_mean") < 0.4


def test_what_a_fold_holds_does_not_reach_its_head() -> None:
    problem = problem_of()
    folds = TrainFolds(problem, seed=0)
    garbage = problem.train[0].features.copy()
    garbage[folds.folds == 2] = np.random.default_rng(0).permutation(garbage[folds.folds == 2])
    others = TrainFolds(dataclasses.replace(problem, train=(Features.of(garbage, LABELS),)), seed=0)
    same = [torch.equal(one.weight, other.weight) for one, other in zip(folds.heads, others.heads, strict=True)]
    assert same == [False, False, True, False, False]


def test_every_image_that_is_not_alone_in_its_class_is_predicted_once_in_order() -> None:
    folds = TrainFolds(problem_of(), seed=0)
    for predictions in (folds.joint, held_out(folds, TAU)):
        assert predictions.labels.tolist() == LABELS[LABELS != 5].tolist()
    for fold in range(5):
        part = folds.fold(fold, with_train=True)
        assert np.bincount(part.train[0].labels, minlength=6).tolist() == part.class_counts.tolist()
        assert (part.class_counts > 0).all()
        inside, features = folds.folds == fold, folds.problem.train[0].features
        assert np.array_equal(part.selection.features, features[inside])
        answers = predict(part.head, *part.selection_tensors()).classes
        assert folds.joint.classes[inside[LABELS != 5]].tolist() == answers.tolist()


@pytest.mark.parametrize("by", ["class_mean", "all", "few"])
def test_tau_is_the_best_over_all_folds_together(by: str) -> None:
    config = dataclasses.replace(TAU, select_by=by)
    folds = TrainFolds(problem_of(noise=1.3), seed=0)
    result = folds.fit(config)["tau"]

    def value(tau: float) -> float:
        parts = [folds.fold(fold) for fold in range(5)]
        return accuracy(
            Predictions.joined(predict(tau_normalize(part.head, tau), *part.selection_tensors()) for part in parts),
            by,
        )

    assert result.selected_on == "train"
    if "joint" not in result.params:
        assert value(result.params["tau"]) == pytest.approx(max(value(tau) for tau in np.linspace(0, 2, 81)))
        assert torch.equal(result.head.weight, tau_normalize(folds.problem.head, result.params["tau"]).weight)


def test_joint_is_kept_where_no_setting_is_as_good() -> None:
    problem = problem_of(noise=0.01)
    idle = RebalanceConfig(method="crt", lr=(1e-9, 1e-8), weight_decay=(0.0,), epochs=1)
    folds = TrainFolds(problem, seed=0)
    result = folds.fit(idle)["crt"]
    assert (result.params, result.selected_on) == ({"joint": True}, "train")
    assert torch.equal(result.head.weight, problem.head.weight)
    kept = folds.held_out(idle, {"crt": result}, unchanged)["crt"]  # in every fold, too
    assert kept.classes.tolist() == folds.joint.classes.tolist()
    assert accuracy(kept) > 0.9
    fixed = folds.fit(dataclasses.replace(idle, lr=(1e-9,)))["crt"]  # as the user wants it
    assert (fixed.params, fixed.selected_on) == ({}, None)
    tied = folds.fit(TAU)["tau"]
    assert tied.params.keys() == {"tau"}
    assert tied.selected_on == "train"


def test_learning_rates_are_chosen_by_folds_and_shown() -> None:
    folds = TrainFolds(problem_of(), seed=0)
    result = folds.fit(RebalanceConfig(method="crt", lr=(1e-7, 1.0), weight_decay=(0.0,), epochs=40))["crt"]
    assert result.params["lr"] == 1.0
    assert result.selected_on == "train"
    alone = folds.fit(RebalanceConfig(method="crt", lr=(1.0,), weight_decay=(0.0,), epochs=40))["crt"]
    assert alone.selected_on is None
    assert torch.equal(alone.head.weight, result.head.weight)


def test_a_rate_that_diverges_is_not_chosen() -> None:
    folds = TrainFolds(problem_of(), seed=0)
    config = RebalanceConfig(method="crt", lr=(1e30, 0.5), epochs=4)
    assert folds.fit(config)["crt"].params["lr"] == 0.5
    with pytest.raises(ValueError, match=r"^--lr: got 1e\+31"):
        folds.fit(dataclasses.replace(config, lr=(1e30, 1e31)))


def test_temperature_and_strength_go_with_the_size_of_the_joint_heads_logits() -> None:
    problem = problem_of()
    smaller = LinearHead(0.8 * problem.head.weight.detach(), 0.8 * problem.head.bias.detach())
    as_is, scaled = (TrainFolds(each, seed=0) for each in (problem, dataclasses.replace(problem, head=smaller)))
    adjust = RebalanceConfig(method="logit_adjustment")
    results = [folds.fit(adjust)["logit_adjustment"].params for folds in (as_is, scaled)]
    assert results[1]["strength"] == pytest.approx(0.8 * results[0]["strength"], rel=1e-3)
    for folds in (as_is, scaled):
        folds.fit(RebalanceConfig(method="tau", tau="0"))
    temperatures = [folds.temperature("tau", folds.problem.head) for folds in (as_is, scaled)]
    assert temperatures[1] == pytest.approx(0.8 * temperatures[0], rel=1e-3)


def test_a_method_of_ones_own_chooses_within_each_fold(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, int]] = []

    def mine(problem: Problem) -> LinearHead:
        seen.append((problem.selected_on, len(problem.selection)))
        return problem.head

    register("mine", mine)
    folds = TrainFolds(problem_of(), seed=0)
    predictions = held_out(folds, RebalanceConfig(method="mine"))
    assert predictions.classes.tolist() == folds.joint.classes.tolist()
    sizes = np.bincount(folds.folds[folds.folds >= 0])
    assert [where for where, _ in seen] == ["train"] * len(seen)
    assert sorted(size for _, size in seen[:6]) == sorted([*sizes.tolist(), len(LABELS)])
    assert len(seen) == 6 + 25  # on each fold's parts again
    assert max(size for _, size in seen[6:]) < max(sizes)
    assert any("mine" in message and "selected_on=None" in message for message in caplog.messages)


def test_a_method_of_ones_own_without_a_choice_is_fitted_once_a_fold(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def plain(problem: Problem) -> RebalancedHead:
        calls.append(len(problem.train[0]))
        return RebalancedHead(head=problem.head)

    register("plain", plain)
    held_out(TrainFolds(problem_of(), seed=0), RebalanceConfig(method="plain"))
    assert len(calls) == 6
    assert not any("plain" in message for message in caplog.messages)


def test_a_method_of_ones_own_that_chooses_sees_the_training_images_in_folds() -> None:
    def means(problem: Problem) -> LinearHead:
        features, labels = problem.training_tensors()
        return LinearHead(torch.stack([features[labels == label].mean(0) for label in range(len(COUNTS))]))

    register("means", means)
    predictions = held_out(TrainFolds(problem_of(), seed=0), RebalanceConfig(method="means"))
    assert accuracy(predictions) > 0.6


def test_class_counts_that_were_given_keep_their_ratios_in_folds() -> None:
    problem = problem_of()
    counted, given = TrainFolds(problem, seed=0), np.array([100 * count for count in COUNTS])
    folds = TrainFolds(dataclasses.replace(problem, class_counts=given), seed=0)
    assert folds.folds.tolist() == counted.folds.tolist()  # an image that is alone here is in no fold
    for fold in range(5):
        rest = np.bincount(LABELS[counted.folds != fold])
        assert counted.part(fold).class_counts.tolist() == rest.tolist()
        assert folds.part(fold).class_counts.tolist() == (100 * rest).tolist()
    few = TrainFolds(dataclasses.replace(problem, class_counts=np.ones(6, dtype=np.int64)), seed=0)
    assert few.part(0).class_counts.tolist() == [1] * 6


@pytest.mark.parametrize("counts", [(20, 1, 1, 1, 1, 1), (98, 1, 1, 1, 1, 1)])
def test_folds_that_cannot_tell_classes_apart_are_refused(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(6), counts)
    problem = Problem.of_features(problem_of().head, Features.of(torch.ones(len(labels), 8), labels))
    with pytest.raises(ValueError, match=rf"^val: got none, and {counts[0]} train images .*classes: 1.* at least 25"):
        TrainFolds(problem, seed=0)


def test_a_class_without_images_is_named() -> None:
    problem = problem_of()
    with pytest.raises(ValueError, match="got no training images of class 4"):
        TrainFolds(dataclasses.replace(problem, train=(problem.train[0].take(np.flatnonzero(LABELS != 4)),)), seed=0)


def test_single_images_are_told(caplog: pytest.LogCaptureFixture) -> None:
    TrainFolds(problem_of(), seed=0)
    (message,) = (text for text in caplog.messages if "single" in text)
    assert "1 of 6 classes" in message
    assert "class 5" in message


def test_joint_is_the_same_whatever_views_a_method_takes() -> None:
    problem = problem_of()
    other = Features.of(np.random.default_rng(1).permutation(problem.train[0].features), LABELS)
    both = TrainFolds(dataclasses.replace(problem, train=(problem.train[0], other)), seed=0)
    assert both.joint.confidences.tolist() == TrainFolds(problem, seed=0).joint.confidences.tolist()
    assert len(both.fold(0, with_train=True).train) == 2


def test_a_fold_that_cannot_learn_what_the_network_has_says_so(caplog: pytest.LogCaptureFixture) -> None:
    problem = memorising(problem_of(width=200))
    TrainFolds(problem, seed=0)
    assert not any("than it is" in text for text in caplog.messages)
    faint = Features.of(1e-4 * problem.train[0].features, LABELS)
    head = LinearHead(1e4 * problem.head.weight.detach(), problem.head.bias)
    TrainFolds(dataclasses.replace(problem, head=head, train=(faint,)), seed=0)
    (message, *_) = (text for text in caplog.messages if "than it is" in text)
    assert "that of the network on 100.0 %" in message


def test_val_is_used_where_there_is_one(caplog: pytest.LogCaptureFixture) -> None:
    problem = problem_of()
    split = validate(dataclasses.replace(problem, selected_on="val"), place="here", seed=0)
    assert isinstance(split, ValidationSplit)
    assert not caplog.messages
    assert isinstance(validate(problem, place="here", seed=0), TrainFolds)
    assert "no val in here" in caplog.text


@pytest.mark.parametrize("method", ["tau", "ncm", "crt"])
def test_a_module_is_rebalanced_without_val(method: str, caplog: pytest.LogCaptureFixture) -> None:
    problem = problem_of()
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, len(COUNTS)))
    model[1].load_state_dict(problem.head.state_dict())
    features, labels = problem.training_tensors()
    with caplog.at_level(logging.INFO, logger="fastlt"):
        rebalanced = rebalance_model(model, TensorDataset(features, labels), method=method, epochs=2)
    assert any(record.levelno == logging.WARNING and "no val" in record.message for record in caplog.records)
    folds = TrainFolds(problem, seed=0)
    config = RebalanceConfig(method=method, epochs=2)
    expected = folds.fit(config)[method].head
    temperature = folds.temperature(method, expected)
    torch.testing.assert_close(rebalanced[1].weight, expected.weight / temperature)


@pytest.mark.parametrize("config", [TAU, RebalanceConfig(method="crt", lr=(0.1, 1.0), epochs=1)])
def test_a_group_without_images_in_folds_cannot_choose(config: RebalanceConfig) -> None:
    folds = TrainFolds(problem_of(), seed=0)
    with pytest.raises(ValueError, match=r"^--select-by: got many; expected a group with images in folds of train"):
        folds.fit(dataclasses.replace(config, select_by="many"))
    folds.fit(dataclasses.replace(config, tau="1", lr=(1.0,), select_by="many"))  # nothing is chosen


def test_methods_are_not_tried_where_the_group_that_decides_is_in_no_fold() -> None:
    config = RebalanceConfig(select_by="many")
    with pytest.raises(ValueError, match=r"^--select-by: got many; expected a group with images in folds of train"):
        try_methods(TrainFolds(problem_of(), seed=0), config)


def test_images_that_may_be_repeated_make_no_folds() -> None:
    features, labels = problem_of().training_tensors()
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, len(COUNTS)))
    batches = [(features, labels)]
    with pytest.raises(ValueError, match=r"^val: got none, and training images from an iterable"):
        rebalance_model(model, iter(batches), class_counts=COUNTS)
    rebalance_model(model, iter(batches), batches, class_counts=COUNTS)
