"""Every recipe from raw images to a rebalanced classifier: two steps a stage, in every layout, with every backbone."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlt import RebalanceConfig, TrainConfig, rebalance, recipe, train
from fastlt.data import pack
from fastlt.data.published.interface import DataOptions
from fastlt.data.registry import open_named
from fastlt.recipes import choices

BACKBONES = sorted(
    (name, str(backbone))
    for name, layout in (("imagenet_lt", "imagenet"), ("inat2018", "inat"), ("places_lt", "places"))
    for backbone in choices(name)["backbone"]
)
LAYOUTS = {"imagenet_lt": "imagenet-flat", "inat2018": "inat-json", "places_lt": "places-easy"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def small(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The recipe at 32 pixels, 8 images a step, its learning rates in proportion: two steps of 17 images."""
    share = 8 / config.batch_size
    return dataclasses.replace(
        config,
        epochs=1,
        batch_size=8,
        lr=config.lr * share,
        backbone_lr=None if config.backbone_lr is None else config.backbone_lr * share,
        image_size=32,
        eval_resize=36,
        device="cpu",
        compile=False,
        num_threads=1,
        **changes,
    )


def both_stages(config: TrainConfig) -> None:
    """Train two steps, then two of a classifier, and look at what is there."""
    run = train(config)
    assert run.data["class_counts"] == [9, 5, 3]
    assert json.loads(run.metrics.read_text())["step"] == 2
    run = rebalance(run, RebalanceConfig(method="crt", epochs=1, batch_size=8, device="cpu", num_threads=1))
    assert (run.method("crt") / "model.safetensors").is_file()


def test_every_layout_trains_and_rebalances(miniature: Any) -> None:
    config = small(recipe(miniature.dataset), backbone="resnet10", data_root=miniature.root, lists=miniature.lists)
    both_stages(config)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), BACKBONES)
def test_every_backbone_trains_and_rebalances(
    name: str, backbone: str, tmp_path: Path, make_miniature: Callable[[Path, str], Any]
) -> None:
    data = make_miniature(tmp_path / "data", LAYOUTS[name])
    both_stages(small(recipe(name), backbone=backbone, data_root=data.root, lists=data.lists))


def test_a_pack_of_a_benchmark_continues_the_run_on_its_files(
    tmp_path: Path, make_miniature: Callable[[Path, str], Any]
) -> None:
    data = make_miniature(tmp_path / "data", "places-easy")
    config = small(recipe("places_lt"), backbone="resnet10", data_root=data.root, lists=data.lists)
    run = train(dataclasses.replace(config, out=tmp_path / "run"))
    pack(open_named("places_lt", data.root, DataOptions(lists=data.lists)), tmp_path / "pack", dataset="places_lt")
    resumed = train(dataclasses.replace(config, out=run.path, resume=True, data_root=tmp_path / "pack", lists=None))
    assert resumed.path == run.path
