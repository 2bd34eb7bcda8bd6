"""What each process of a training draws, validates and merges."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastlt.config import TrainConfig
from fastlt.data.transforms.mixup import draw_share
from fastlt.data.transforms.randaugment import draw_operations
from fastlt.runtime.signals import Signals
from fastlt.training.data_wait import DataWait
from fastlt.training.loaders import Streams, decoder_of, make_sampler

CPU = torch.device("cpu")


def streams(rank: int, size: int, num_val: int = 0, **settings: Any) -> Streams:
    world = SimpleNamespace(rank=rank, size=size, local_size=size, largest=lambda merged: merged)
    sampler = SimpleNamespace(first_slot=lambda step: 100 * step + 10 * rank, local_batch_size=10)
    splits: Any = {"val": range(num_val)}
    config = TrainConfig(seed=5, num_threads=settings.pop("num_threads", 8), **settings)
    return Streams(config, splits, sampler, world, CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(("num_images", "size"), [(10, 1), (10, 3), (3, 3), (11, 4)])
def test_every_val_image_is_validated_once_and_in_order(num_images: int, size: int) -> None:
    shares = [streams(rank, size, num_images).val_indices for rank in range(size)]
    assert np.concatenate(shares).tolist() == list(range(num_images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_fewer_val_images_than_processes_are_validated_by_all() -> None:
    assert [streams(rank, 3, 2).val_indices.tolist() for rank in range(3)] == [[0, 1]] * 3


def test_predictions_are_put_where_they_belong() -> None:
    assert streams(1, 3, 10).merge(torch.tensor([7, 8, 9])).tolist() == [-1, -1, -1, 7, 8, 9, -1, -1, -1, -1]
    assert streams(0, 1, 3).merge(torch.tensor([7, 8, 9])).tolist() == [7, 8, 9]


def test_processes_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.training.loaders.resolve_threads", lambda wanted: 16 if wanted is None else wanted)
    given = streams(0, 4, memory_share=0.4).settings("memory")
    assert (given["num_threads"], given["memory_share"], given["backend"]) == (8, pytest.approx(0.1), "memory")
    assert streams(0, 4, num_threads=None).settings("memory")["num_threads"] == 4
    assert streams(0, 32, num_threads=None).settings("memory")["num_threads"] == 1


def test_draws_are_those_of_the_step_and_of_the_process() -> None:
    assert streams(0, 2).draws(3) == (None, None)
    operations, share = streams(1, 2, randaugment=2, mixup=0.3).draws(3)
    assert operations is not None
    assert share is not None
    np.testing.assert_array_equal(operations.numpy(), draw_operations(310, 10, num_operations=2, seed=5))
    assert share.item() == pytest.approx(draw_share(3, alpha=0.3, seed=5))


def test_the_sampler_is_the_runs_own() -> None:
    world: Any = SimpleNamespace(rank=1, size=2)
    dataset: Any = SimpleNamespace(labels=np.repeat([0, 1], 8), num_classes=3)
    config = TrainConfig(seed=5, batch_size=4, epochs=3, samples_per_class=2, sampling="class_balanced")
    with pytest.raises(ValueError, match=r"^labels: .*\b1 of 3 classes.*class 2\b"):
        make_sampler(config, dataset, world)
    dataset.num_classes = 2
    sampler = make_sampler(config, dataset, world)
    assert (sampler.batch_size, sampler.local_batch_size, sampler.seed) == (4, 2, 5)
    assert (sampler.samples_per_class, sampler.num_epochs) == (2, 3)
    alone = make_sampler(config, dataset, SimpleNamespace(rank=0, size=1))  # type: ignore[arg-type]
    np.testing.assert_array_equal(sampler.batch(7), alone.batch(7)[2:])


def test_all_loaders_but_dali_decode_alike() -> None:
    assert [decoder_of(name) for name in ("dali", "pillow", "memory", "device")] == ["dali", *["pillow"] * 3]


def test_the_wait_is_the_time_in_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((0.0, 1.0, 3.0, 4.0, 5.0, 6.0, 6.0, 12.0, 20.0, 21.0))
    monkeypatch.setattr("fastlt.training.data_wait.time.perf_counter", lambda: next(ticks))
    wait = DataWait(CPU)
    batches: Any = ["a", "b"]
    assert list(wait.watch(batches, Signals())) == ["a", "b"]
    assert wait.waited_s == 3  # 2 for a, 1 for b, and none to learn that there is no more
    assert wait.share() == pytest.approx(3 / 12)
    wait.begin_epoch()
    assert wait.share() == 0
