"""Made-up sets: the shape of the real one, small on the disk."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fastlt.cli import dispatch
from fastlt.config import TrainConfig
from fastlt.data import decode_rgb
from fastlt.data.published.cifar import tail_counts
from fastlt.data.published.interface import DataOptions
from fastlt.data.published.listed import benchmark_counts, check_counts
from fastlt.data.published.specs import BENCHMARKS
from fastlt.data.registry import PUBLISHED, open_data
from fastlt.data.synthetic.published_shape import synthetic


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_counts_are_the_benchmarks_with_its_groups(name: str) -> None:
    benchmark = BENCHMARKS[name]
    counts = benchmark_counts(benchmark)
    assert (np.diff(counts) <= 0).all()
    assert all(check.ok for check in check_counts(benchmark, "train", np.repeat(np.arange(len(counts)), counts)))


def test_a_benchmarks_shape_comes_through_whole_and_small(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["places_lt"]
    splits = synthetic("places_lt", PUBLISHED["places_lt"].shape(DataOptions()))
    assert list(splits) == ["train", "val", "test"]
    for name, split in splits.items():
        assert all(check.ok for check in check_counts(benchmark, name, split.labels))
    held = set(splits["val"].paths)
    assert held.isdisjoint(splits["train"].paths)
    files = list((tmp_path / "cache" / "datasets").rglob("*.jpg"))
    assert len(files) == 3 * benchmark.num_classes
    assert sum(file.stat().st_size for file in files) < 5_000_000


def test_pictures_have_the_size_asked_for_and_photographs_the_weight() -> None:
    train = synthetic("cifar10_lt", PUBLISHED["cifar10_lt"].shape(DataOptions()), size=(500, 375))["train"]
    assert (train.sizes == (500, 375)).all()
    assert train.native.all()
    content = train.read(0)
    assert 50_000 < len(content) < 150_000
    assert decode_rgb(content).shape == (375, 500, 3)
    again = synthetic("cifar10_lt", PUBLISHED["cifar10_lt"].shape(DataOptions()), size=(500, 375))["train"]
    assert again.fingerprint == train.fingerprint


def test_settings_reach_it_and_mistakes_are_said(tmp_path: Path) -> None:
    config = TrainConfig(dataset="cifar10_lt", synthetic=True, synthetic_size=(32, 32), imbalance=10)
    train = open_data(config)["train"]
    assert sorted(train.class_counts.tolist()) == sorted(tail_counts(10, 5000, 10).tolist())
    assert train.sizes[0].tolist() == [32, 32]
    with pytest.raises(ValueError, match=r"^--synthetic: .*--dataset folder\b.*imagenet_lt, "):
        open_data(dataclasses.replace(config, dataset="folder"))
    with pytest.raises(ValueError, match=rf"^--synthetic: .*--data-root {tmp_path}"):
        open_data(dataclasses.replace(config, data_root=tmp_path))
    with pytest.raises(ValueError, match=r"^--synthetic-size: got 8\b"):
        dataclasses.replace(config, synthetic_size=(500, 8))
    with pytest.raises(ValueError, match=r"^--data-root: .*--dataset inat2018\b.*--synthetic\b"):
        open_data(TrainConfig(dataset="inat2018"))


def test_training_on_it_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--epochs 1 --batch-size 2048 --lr 1.6 --device cpu --num-threads 1 --no-compile --out run"
    smaller = "--image-size 16 --eval-resize 16 --synthetic-size 32 32"
    dispatch(["train", "--dataset", "cifar10_lt", "--synthetic", *smaller.split(), *options.split()])
    assert (tmp_path / "run" / "checkpoints" / "best.safetensors").is_file()
