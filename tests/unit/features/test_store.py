"""The features of a run: what they depend on, whose they are, and how images become them."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastlt.config import TrainConfig
from fastlt.data.dataset import LongTailedDataset
from fastlt.data.loaders.plan import StandIns, ViewPlan
from fastlt.data.transforms.augmentation import Augmentation, EvalTransform, augmentation, eval_transform
from fastlt.features.file import Record
from fastlt.features.store import FeatureStore, hash_tensors
from fastlt.files import write_json
from fastlt.run import Run

CONFIG = TrainConfig(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), seed=1)


def key_of(view: int, *, split: str = "train", precision: str = "fp32", fingerprint: str = "d", **changes: Any) -> dict:
    store = object.__new__(FeatureStore)
    store.backbone_hash = changes.pop("backbone_hash", "w")
    store.precision = precision
    store.device = torch.device(changes.pop("device", "cpu"))
    data = {"splits": {name: {"fingerprint": fingerprint} for name in ("train", "val")}}
    store.run = SimpleNamespace(config=dataclasses.replace(CONFIG, **changes), data=data)
    return store.key(split, view)


def test_features_are_known_by_all_that_they_depend_on() -> None:
    always = [
        {"backbone_hash": "x"},
        {"fingerprint": "e"},
        {"precision": "bf16"},
        {"image_size": 33, "eval_resize": 37},
        {"eval_resize": 40},
        {"mean": (0.5, 0.4, 0.2)},
        {"std": (0.2, 0.3, 0.5)},
        {"interpolation": "bicubic"},
    ]
    of_views = [
        {"crop_scale": (0.2, 1.0)},
        {"crop_ratio": (0.5, 2.0)},
        {"flip": 0.3},
        {"color_jitter": 0.1},
        {"seed": 2},
    ]
    for view in (0, 1):
        keys = [key_of(view), key_of(1 - view)] + [key_of(view, **change) for change in always]
        keys += [key_of(view, **change) for change in of_views if view]
        assert all(one != other for at, one in enumerate(keys) for other in keys[:at])
        for change in ({"lr": 0.3}, {"epochs": 7}, *([] if view else of_views)):
            assert key_of(view, **change) == key_of(view)
    assert key_of(0, split="val", precision="bf16") == key_of(0, split="val")


def test_only_a_gpu_computes_training_features_in_a_lower_precision() -> None:
    assert key_of(0, precision="tf32") == key_of(0, device="cuda") == key_of(0)
    on_gpu = [key_of(0, precision=each, device="cuda") for each in ("fp32", "tf32", "bf16")]
    assert all(one != other for at, one in enumerate(on_gpu) for other in on_gpu[:at])
    assert key_of(0, precision="bf16") not in on_gpu
    assert key_of(0, split="val", precision="tf32", device="cuda") == key_of(0, split="val")


def test_another_backbone_has_features_of_its_own_and_another_head_has_not(tmp_path: Path) -> None:
    store = object.__new__(FeatureStore)
    store.run, store.folder = SimpleNamespace(path=tmp_path), tmp_path / "features"
    store.tensors, store.backbone_hash = {"conv.weight": torch.ones(2), "fc.weight": torch.ones(3)}, "w"
    store.__dict__ |= {"model": "the old one", "head": "the old one"}
    assert store.with_backbone({"conv.weight": torch.ones(2), "fc.weight": torch.zeros(3)}, "crt") is store
    moved = [store.with_backbone({"conv.weight": torch.full((2,), value)}, "crt") for value in (2.0, 3.0)]
    assert len({"w", *(each.backbone_hash for each in moved)}) == 3
    for value, each in zip((2.0, 3.0), moved, strict=True):
        assert each.folder == tmp_path / "features" / "crt"
        assert (each.tensors["conv.weight"] == value).all()
        assert (each.tensors["fc.weight"] == 1).all()  # the head of stage 1 stays
        assert "model" not in vars(each)
        assert "head" not in vars(each)
    assert vars(store)["model"] == "the old one"
    # A hash that is known already is taken at its word
    assert store.with_backbone({}, "crt", backbone_hash="w") is store
    assert store.with_backbone({}, "crt", backbone_hash="x").backbone_hash == "x"
    # Features that are there already under another name are used again
    (tmp_path / "features" / "lws").mkdir(parents=True)
    record = Record(key={"weights": moved[1].backbone_hash}, shape=(1, 2), num_done=1)
    write_json(tmp_path / "features" / "lws" / "val.json", dataclasses.asdict(record))
    assert store.with_backbone({"conv.weight": torch.full((2,), 3.0)}, "crt").folder == tmp_path / "features" / "lws"


@pytest.mark.parametrize("last", [True, False])
def test_a_run_that_ended_before_its_first_epoch_says_how_to_go_on(last: bool, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    if last:  # it was killed after a save within the epoch
        run.checkpoint("last").parent.mkdir(parents=True)
        run.checkpoint("last").touch()
    with pytest.raises(FileNotFoundError, match=rf"^{run.path}: .*finished epoch.* --resume --out {run.path}$"):
        FeatureStore(run)


def test_views_are_cut_as_stage_1_cuts_and_the_others_as_it_evaluates() -> None:
    settings = {"crop_scale": (0.3, 0.9), "crop_ratio": (0.6, 1.5), "flip": 0.1, "color_jitter": 0.7}
    config = dataclasses.replace(CONFIG, interpolation="bicubic", **settings)
    cut = Augmentation(size=32, scale=(0.3, 0.9), ratio=(0.6, 1.5), flip=0.1, jitter=0.7, interpolation="bicubic")
    assert augmentation(config) == cut
    assert eval_transform(config) == EvalTransform(size=32, resize=config.resize, interpolation="bicubic")


def test_hashes_tell_names_shapes_and_values_apart() -> None:
    x = torch.arange(6.0)
    tensors = [{"a": x}, {"b": x}, {"a": x.reshape(2, 3)}, {"a": x + 1}, {"a": x.double()}, {"a": x, "b": x}]
    assert len({hash_tensors(each) for each in tensors}) == len(tensors)
    assert hash_tensors({"a": x, "b": x}) == hash_tensors({"b": x, "a": x.clone()})


@pytest.fixture
def dataset(tmp_path: Path) -> LongTailedDataset:
    return LongTailedDataset(
        root=tmp_path,
        paths=tuple(f"{index}.png" for index in range(11)),
        labels=np.arange(11) % 2,
        sizes=np.random.default_rng(0).integers(20, 60, (11, 2)).astype(np.int32),
        native=np.ones(11, np.bool_),
        class_names=("a", "b"),
        split="train",
        fingerprint="0",
    )


def windows(dataset: LongTailedDataset, *, view: int, seed: int = 3, batch_size: int, start: int = 0) -> np.ndarray:
    plan = ViewPlan(
        dataset=dataset, augmentation=Augmentation(size=16), batch_size=batch_size, seed=seed, view=view, start=start
    )
    works = [plan.work(position, StandIns(dataset)) for position in range(len(plan))]
    assert np.concatenate([work.ids for work in works]).tolist() == list(range(start, 11))
    return np.concatenate([work.windows for work in works])


def test_a_view_depends_on_its_number_and_the_seed_alone(dataset: LongTailedDataset) -> None:
    whole = windows(dataset, view=1, batch_size=11)
    assert np.array_equal(windows(dataset, view=1, batch_size=4), whole)
    assert np.array_equal(windows(dataset, view=1, batch_size=3, start=5), whole[5:])
    assert not np.array_equal(windows(dataset, view=2, batch_size=11), whole)
    assert not np.array_equal(windows(dataset, view=1, seed=4, batch_size=11), whole)


def test_images_come_in_pieces_as_large_as_those_of_training() -> None:
    config = TrainConfig(batch_size=24, accumulate=4)
    store = SimpleNamespace(
        run=SimpleNamespace(config=config), device=torch.device("cpu"), loader="auto", num_threads=1
    )
    assert FeatureStore.loader_settings.fget(store)["batch_size"] == 6  # type: ignore[attr-defined]
