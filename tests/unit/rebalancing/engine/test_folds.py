"""Cross-validation on val: what chooses never sees what it is scored on, and answers come back in val's order."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from fastlt import RebalanceConfig
from fastlt.features.arrays import Features
from fastlt.models import LinearHead
from fastlt.rebalancing.engine.folds import NUM_FOLDS, cross_validate, stratified_folds
from fastlt.rebalancing.problem import Problem, RebalancedHead

CPU = torch.device("cpu")
N, C = 43, 6
RNG = np.random.default_rng(0)
LABELS = RNG.integers(C, size=N)
# The class that a plain head says, [N, C], and in the last column the number of the image
SAID = RNG.integers(C, size=N)
FEATURES = np.column_stack([np.eye(C)[SAID], np.arange(N)]).astype(np.float32)
PLAIN = LinearHead(torch.eye(C, C + 1), torch.zeros(C))
VAL = Problem(
    head=PLAIN,
    train=(),
    selection=Features(features=FEATURES, labels=LABELS),
    selected_on="folds",
    class_counts=np.arange(C, 0, -1),
    device=CPU,
)


def test_every_fold_is_scored_by_what_the_others_chose() -> None:
    fitted: list[set[int]] = []
    completed: dict[str, list[set[int]]] = {"tau": [], "ncm": []}

    def classes_of(features: Tensor) -> set[int]:
        return set(features[:, -1].long().tolist())

    def fit(problem: Problem, config: RebalanceConfig) -> Mapping[str, RebalancedHead]:
        assert config.method == "tau"  # the other chose nothing
        fitted.append(classes_of(problem.selection_tensors()[0]))
        head = LinearHead(torch.zeros(C, C + 1), torch.eye(C)[len(fitted) - 1])  # says the number of its fold
        return {"tau": RebalancedHead(head=head, params={}, selected_on="folds")}

    def complete(result: RebalancedHead, features: Tensor, labels: Tensor) -> LinearHead:
        head = result.head
        assert np.array_equal(labels, LABELS[sorted(classes_of(features))])
        completed["ncm" if head.weight.any() else "tau"].append(classes_of(features))
        return LinearHead(head.weight.detach() * 2, head.bias.detach() * 2)  # type: ignore[union-attr]

    choices = {
        "tau": RebalancedHead(head=PLAIN, params={}, selected_on="folds"),
        "ncm": RebalancedHead(head=PLAIN, params={}, selected_on=None),
    }
    predictions = cross_validate(VAL, RebalanceConfig(method="all", seed=3), choices, fit, complete)
    folds = stratified_folds(LABELS, seed=3)
    assert fitted == [set(np.flatnonzero(folds != fold).tolist()) for fold in range(NUM_FOLDS)]
    assert completed == {"tau": fitted, "ncm": fitted}
    assert np.array_equal(predictions["tau"].classes, folds)
    assert np.array_equal(predictions["ncm"].classes, SAID)
    sure = np.exp(2) / (np.exp(2) + C - 1)
    for each in predictions.values():
        assert np.array_equal(each.labels, LABELS)
        np.testing.assert_allclose(each.confidences, sure, rtol=1e-6)
        expected = np.where(each.right, sure, (1 - sure) / (C - 1))
        np.testing.assert_allclose(each.log_likelihoods, np.log(expected), rtol=1e-5)


def test_the_odd_images_go_to_any_fold() -> None:
    larger = {int(np.bincount(stratified_folds(np.zeros(6, int), seed=seed)).argmax()) for seed in range(60)}
    assert larger == set(range(NUM_FOLDS))


def test_folds_share_every_class_evenly() -> None:
    labels = np.random.default_rng(1).integers(0, 7, 203)
    folds = stratified_folds(labels, seed=5)
    assert np.ptp(np.bincount(folds)) <= 1
    for c in range(7):
        assert np.ptp(np.bincount(folds[labels == c], minlength=5)) <= 1
    assert np.array_equal(folds, stratified_folds(labels, seed=5))
    assert not np.array_equal(folds, stratified_folds(labels, seed=6))
    with pytest.raises(ValueError, match=r"^--select-on: got folds\b.*\b4 val images.*\b5\b"):
        stratified_folds(labels[:4])
