"""The settings of `fastlt reproduce`, and what starts its processes."""

import dataclasses
from pathlib import Path

import pytest

from fastlt.commands.reproduce import Reproduce, settings
from fastlt.commands.train import train_config
from fastlt.config import SAMPLINGS, RebalanceConfig
from fastlt.recipes import recipe
from fastlt.reproduce import reproduce
from fastlt.runtime.launch import flags


def test_flags_turn_one_config_into_another() -> None:
    base = recipe("places_lt")
    wanted = dataclasses.replace(
        base,
        data_root=Path("a b"),
        train_only=(),
        backbone_lr=None,
        crop_scale=(0.1, 1.0),
        compile=False,
        gpus=2,
        lr=0.3,
    )
    assert train_config(flags(wanted, base)) == wanted
    assert flags(base, base) == ["--dataset", "places_lt"]


def test_a_batch_takes_its_learning_rates_with_it() -> None:
    config = settings(Reproduce(dataset="places_lt", batch_size=64))
    assert (config.lr, config.backbone_lr) == (pytest.approx(0.025), pytest.approx(0.0025))


def test_torchrun_is_not_what_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"^reproduce: got .*torchrun.*--gpus N.* fastlt train"):
        reproduce(recipe("glyphs_lt"), RebalanceConfig(method="all"), samplings=SAMPLINGS, seeds=(0,), out=tmp_path)
