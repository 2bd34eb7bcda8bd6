"""A method of the user's own: what it is given, what it may return, and how it is refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastlt import RebalanceConfig, rebalance_model
from fastlt.features import Features
from fastlt.models import LinearHead
from fastlt.rebalancing import Problem, RebalancedHead, register
from fastlt.rebalancing.engine.folds import NUM_FOLDS, cross_validate
from fastlt.rebalancing.methods.registry import find, fit, uses_training_features

C, D = 4, 3


def split(seed: int) -> Features:
    labels = np.repeat(np.arange(C), 5)
    x = np.random.default_rng(seed).normal(size=(len(labels), D)).astype(np.float32)
    return Features(features=x, labels=labels)


def problem(**changes: Any) -> Problem:
    plain = Problem(
        head=LinearHead(torch.arange(C * D).reshape(C, D).float(), torch.ones(C)),
        train=(split(0),),
        selection=split(1),
        selected_on="val",
        class_counts=np.full(C, 5),
        device=torch.device("cpu"),
    )
    return dataclasses.replace(plain, **changes)


def huge(problem: Problem) -> LinearHead:
    return LinearHead(torch.full((C, D), 1e300, dtype=torch.float64))


def made(function: Callable[[Problem], Any], **options: Any) -> RebalancedHead:
    register("mine", function, **options)
    return fit(problem(), RebalanceConfig(method="mine"))["mine"]


def test_a_plain_head_counts_as_chosen_on_the_selection_and_others_say_for_themselves() -> None:
    result = made(lambda problem: LinearHead(2 * problem.head.weight))
    assert torch.equal(result.head.weight, 2 * problem().head.weight)
    assert (result.params, result.selected_on, result.head.bias) == ({}, "val", None)
    given = made(lambda problem: RebalancedHead(head=problem.head, params={"a": np.float32(0.5), "b": torch.tensor(2)}))
    assert (given.params, given.selected_on) == ({"a": 0.5, "b": 2}, None)


def test_a_head_in_another_precision_comes_back_in_the_joint_heads() -> None:
    result = made(lambda problem: LinearHead(problem.head.weight.double(), torch.zeros(C).double()))
    assert (result.head.weight.dtype, result.head.bias.dtype) == (torch.float32, torch.float32)


BAD: dict[str, tuple[Callable[[Problem], Any], str]] = {
    "nothing": (lambda problem: None, "a NoneType; expected a LinearHead or RebalancedHead"),
    "a tensor": (lambda problem: problem.head.weight, "a Parameter; expected a LinearHead"),
    "another shape": (lambda problem: LinearHead(torch.ones(C, D + 1)), r"shape \[4, 4\]; expected \[4, 3\]"),
    "nan": (lambda problem: LinearHead(torch.full((C, D), torch.nan)), "a weight with 12 of 12 numbers NaN"),
    "an infinite bias": (lambda problem: LinearHead(torch.ones(C, D), torch.full((C,), torch.inf)), "a bias with 4 "),
    "too large for fp32": (
        lambda problem: LinearHead(torch.full((C, D), 1e300, dtype=torch.float64)),
        "weight with 12 ",
    ),
    "a bad param": (lambda problem: RebalancedHead(head=problem.head, params={"x": np.ones(2)}), "no JSON"),
    "params nan": (lambda problem: RebalancedHead(head=problem.head, params={"x": np.nan}), "no JSON"),
    "our param": (lambda problem: RebalancedHead(head=problem.head, params={"temperature": 1.0}), "temperature"),
    "joint's mark": (lambda problem: RebalancedHead(head=problem.head, params={"joint": True}), "joint"),
    "another split": (lambda problem: RebalancedHead(head=problem.head, selected_on="test"), r"None or .*'val'"),
    "an error": (lambda problem: 1 / 0, r"ZeroDivisionError: division by zero, test_own\.py line \d+"),
    "no view": (lambda problem: problem.train[1], "IndexError: "),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_head_is_refused_in_one_line(case: str) -> None:
    function, message = BAD[case]
    with pytest.raises(ValueError, match=rf"^--method: got mine .*which (returned|raised) .*{message}") as refused:
        made(function)
    assert "\n" not in str(refused.value)


def test_what_it_changes_is_its_own() -> None:
    given = problem()
    before = [given.head.weight.clone(), *map(torch.clone, given.selection_tensors()), given.class_counts.copy()]

    def vandal(problem: Problem) -> LinearHead:
        for tensor in (*problem.training_tensors(), *problem.selection_tensors()):
            tensor.zero_()
        problem.class_counts[:] = 0
        with torch.no_grad():
            problem.head.weight.mul_(3)
        return problem.head

    register("mine", vandal)
    assert torch.equal(fit(given, RebalanceConfig(method="mine"))["mine"].head.weight, 3 * before[0])
    after = [given.head.weight, *given.selection_tensors(), given.class_counts]
    assert all((one == other).all() for one, other in zip(before, after, strict=True))
    assert given.train[0].features.any()


def test_it_draws_by_the_settings_seed_and_disturbs_nobody() -> None:
    register("mine", lambda problem: LinearHead(torch.randn(C, D)))
    torch.manual_seed(7)
    drawn = [fit(problem(), RebalanceConfig(method="mine", seed=seed))["mine"].head.weight for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    left = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(left, torch.rand(1))


def test_its_registration_says_what_it_needs_and_costs() -> None:
    register("mine", lambda problem: problem.head)
    assert uses_training_features(RebalanceConfig(method="mine"))
    assert not find("mine").quick
    register("cheap", lambda problem: problem.head, needs_training=False, quick=True)
    assert not uses_training_features(RebalanceConfig(method="cheap"))
    assert find("cheap").quick


@pytest.mark.parametrize(("selected_on", "fits"), [("val", NUM_FOLDS), (None, 0)])
def test_folds_fit_it_anew_unless_it_says_that_it_chose_nothing(selected_on: str | None, fits: int) -> None:
    sizes = []

    def count(problem: Problem) -> RebalancedHead:
        sizes.append(len(problem.selection))
        return RebalancedHead(head=problem.head, selected_on=selected_on)

    register("mine", count)
    whole, config = problem(), RebalanceConfig(method="mine")
    predictions = cross_validate(whole, config, fit(whole, config), fit, lambda result, *_: result.head)
    assert len(predictions["mine"].labels) == len(whole.selection)
    assert sizes == [20, *[16] * fits]


def test_any_network_can_have_it(own_module: Callable[[str], str]) -> None:
    name = own_module("from fastlt.models import LinearHead\ndef zero(p): return LinearHead(0 * p.head.weight)")
    batches = [(torch.eye(2), torch.tensor([0, 1]))]
    rebalanced = rebalance_model(
        nn.Sequential(nn.Linear(2, 2)), batches, batches, method=f"{name}:zero", temperature=False
    )
    assert not rebalanced[0].weight.any()
