"""The guard against a batch size that was changed without the learning rate."""

import dataclasses

import pytest

from fastlt.config import TrainConfig
from fastlt.recipes.checks import check_linear_rule

RECIPE = TrainConfig(batch_size=512, lr=0.2)


@pytest.mark.parametrize(("batch_size", "lr"), [(512, 0.2), (256, 0.1), (64, 0.025), (512, 0.25), (1024, 0.3)])
def test_rates_that_go_with_the_batch_pass(batch_size: int, lr: float) -> None:
    assert check_linear_rule(dataclasses.replace(RECIPE, batch_size=batch_size, lr=lr), RECIPE) is None


@pytest.mark.parametrize(
    ("batch_size", "lr", "offered"), [(64, 0.2, "--lr 0.025"), (512, 0.02, "--lr 0.2"), (2048, 0.2, "--lr 0.8")]
)
def test_others_are_told_the_rules_rate(batch_size: int, lr: float, offered: str) -> None:
    warning = check_linear_rule(dataclasses.replace(RECIPE, batch_size=batch_size, lr=lr), RECIPE)
    assert warning is not None
    assert f"the linear rule is {offered} here" in warning
