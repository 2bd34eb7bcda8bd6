"""The joint head is a candidate wherever settings are chosen, and kept as it is, with a line, where it is the best."""

import logging

import numpy as np
import pytest
import torch

from fastlt.config import RebalanceConfig
from fastlt.features.arrays import Features
from fastlt.models import LinearHead
from fastlt.rebalancing.methods.registry import fit
from fastlt.rebalancing.problem import Problem

HEAD = LinearHead(torch.tensor([[2.0], [1.0]]), torch.tensor([-3.0, 0.0]))  # class 0 from x = 3 on, by its bias alone


def problem(*, right: bool = True) -> Problem:
    """Two classes that the joint head tells apart by its bias; with `right` false, the other way round."""
    labels = np.arange(40) % 2
    low = labels == (1 if right else 0)
    features = Features(features=np.where(low, 1.0, 5.0)[:, None].astype(np.float32), labels=labels)
    return Problem(
        head=HEAD,
        train=(features,),
        selection=features,
        selected_on="val",
        class_counts=np.array([30, 10]),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(
    "config",
    [
        RebalanceConfig(method="tau"),
        RebalanceConfig(method="crt", lr=(1e-9, 2e-9), epochs=1),
        RebalanceConfig(method="cosine", weight_decay=(0.0, 1e-3), lr=(1e-9,), epochs=1),
    ],
)
def test_the_joint_head_is_kept_where_nothing_chosen_is_as_good(
    config: RebalanceConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fastlt"):
        result = fit(problem(), config)[config.method]
    assert result.head is HEAD
    assert (result.params, result.selected_on) == ({"joint": True}, "val")
    assert f"{config.method}: the joint classifier has the best class mean accuracy on val, 100.0 %" in caplog.text


def test_what_is_as_good_or_given_is_not_replaced(caplog: pytest.LogCaptureFixture) -> None:
    assert fit(problem(), RebalanceConfig(method="logit_adjustment"))["logit_adjustment"].params["strength"] >= 0
    assert fit(problem(), RebalanceConfig(method="tau", tau="0.7"))["tau"].params == {"tau": 0.7}
    assert fit(problem(right=False), RebalanceConfig(method="tau"))["tau"].params.keys() == {"tau"}
    assert "the joint classifier" not in caplog.text
