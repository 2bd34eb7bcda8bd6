"""What the checkpoint of a training says about it, damaged."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fastlt import Run
from fastlt.checkpoints import native
from fastlt.models import create_model
from fastlt.training.state import Progress, read_last, unpack

PROGRESS = {"step": 3, "best": 12.5, "loss_sum": 4.0, "num_correct": 2, "num_seen": 32}


def saved(folder: Path, metadata: Any) -> Run:
    run = Run(folder)
    native.save(run.checkpoint("last"), {"model.x": torch.zeros(2)}, metadata)
    return run


def test_a_record_goes_there_and_back_and_an_older_one_is_read(tmp_path: Path) -> None:
    _, record = read_last(saved(tmp_path, {"progress": PROGRESS, "config": "0"}))
    assert record.progress == Progress(**PROGRESS)
    assert (record.settings, record.decoder) == (None, None)


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({}, "progress"),
        ({"progress": None}, r"\$\.progress"),
        ({"progress": [1]}, r"\$\.progress"),
        ({"progress": PROGRESS | {"step": "3"}}, r"\$\.progress\.step"),
        ({"progress": PROGRESS | {"step": 3.5}}, r"\$\.progress\.step"),
        ({"progress": PROGRESS | {"step": 10**400}}, r"progress\.step"),
        ({"progress": PROGRESS | {"num_seen": 2**53}}, r"progress\.num_seen"),
        ({"progress": PROGRESS | {"step": -1}}, r"progress\.step"),
        ({"progress": PROGRESS | {"best": float("nan")}}, "nan|NaN"),
        ({"progress": PROGRESS | {"loss_sum": float("inf")}}, "inf|Inf"),
        ({"progress": PROGRESS, "settings": 3}, r"\$\.settings"),
        ({"progress": PROGRESS, "decoder": {}}, r"\$\.decoder"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, metadata: Any, named: str) -> None:
    run = saved(tmp_path, metadata)
    with pytest.raises(ValueError, match=rf"^{run.checkpoint('last')}: got .*({named})"):
        read_last(run)


def test_momentum_of_another_shape_is_named(tmp_path: Path) -> None:
    model = create_model("resnet8", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors["momentum.fc.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=rf"^{tmp_path}: got momentum\.fc\.weight of \[2, 2\]"):
        unpack(tensors, model, optimizer, None, source=tmp_path)
