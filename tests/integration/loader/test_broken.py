"""Files that break after they were indexed are named, replaced by a fixed rule, and the run goes on."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from fastlt.data.dataset import LongTailedDataset
from fastlt.data.loaders.base import Batch
from fastlt.data.loaders.loader import Loader, eval_loader
from fastlt.data.transforms.augmentation import EvalTransform

needs_dali = pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="DALI is not installed")
BACKENDS = ("memory", "device", "pillow", pytest.param("dali", marks=needs_dali))
Open = Callable[..., Loader]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def scramble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2:200] = bytes(198)
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def resize(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((image.width + 7, image.height + 5)).save(path)


def replace_with_text(path: Path) -> None:
    path.write_text("<html>not found</html>")


def replace_with_damaged_avif(path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    with Image.open(path) as image:
        image.save(path, "AVIF")
    head = path.read_bytes().partition(b"mdat")[0]
    path.write_bytes(head + b"mdat" + bytes(path.stat().st_size - len(head) - 4))


DAMAGES = (truncate, scramble, empty, remove, resize, replace_with_text, replace_with_damaged_avif)


def drain(loader: Loader) -> list[Batch]:
    with loader:
        return list(loader)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_next_sample_of_the_class_stands_in(
    backend: str,
    damage: Callable[[Path], None],
    own_dataset: LongTailedDataset,
    open_train: Open,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = drain(open_train(own_dataset, "memory"))
    # The last of class 1 is followed by its first; 3 and 4 of class 0 are both broken.
    stand_ins = {20: 14, 3: 5, 4: 5}
    for index in stand_ins:
        damage(own_dataset.path(index))
    with caplog.at_level(logging.WARNING, "fastlt"):
        loader = open_train(own_dataset, backend, num_threads=2)
        batches = drain(loader)
    for batch, intact in zip(batches, whole, strict=True):
        assert batch.ids.tolist() == [stand_ins.get(index, index) for index in intact.ids.tolist()]
        assert torch.equal(batch.labels, intact.labels)
        assert torch.equal(batch.jitter, intact.jitter)
    assert {(found.path, found.substitute) for found in loader.replaced} == {
        (own_dataset.paths[index], own_dataset.paths[stand_in]) for index, stand_in in stand_ins.items()
    }
    assert all(found.reason for found in loader.replaced)
    for index in stand_ins:
        assert sum(str(own_dataset.path(index)) in record.message for record in caplog.records) == 1


@needs_dali
def test_both_decoders_make_the_same_of_broken_files(own_dataset: LongTailedDataset, open_train: Open) -> None:
    for index in (2, 9, 17):
        truncate(own_dataset.path(index))
    dali, pillow = drain(open_train(own_dataset, "dali")), drain(open_train(own_dataset, "pillow"))
    assert len(dali) == len(pillow)
    for a, b in zip(dali, pillow, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        assert (a.images.int() - b.images.int()).abs().float().mean() < 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_goes_on_too(backend: str, own_dataset: LongTailedDataset) -> None:
    truncate(own_dataset.path(3))
    # The stand-in is not among those asked for.
    loader = eval_loader(
        own_dataset,
        EvalTransform(size=24, resize=28),
        batch_size=2,
        backend=backend,
        num_threads=1,
        indices=np.array([2, 3, 20]),
    )
    assert np.concatenate([batch.ids for batch in drain(loader)]).tolist() == [2, 4, 20]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_class_without_a_readable_image_stops_the_run(
    backend: str, own_dataset: LongTailedDataset, open_train: Open
) -> None:
    truncate(own_dataset.path(25))
    with pytest.raises(ValueError, match=r"00\.jpg: got .*\bclass class3\b"):
        drain(open_train(own_dataset, backend))


@pytest.mark.parametrize("backend", BACKENDS[2:])
def test_a_file_may_break_during_the_run(backend: str, own_dataset: LongTailedDataset, open_train: Open) -> None:
    with open_train(own_dataset, backend, num_steps=30) as loader:
        batches = iter(loader)
        next(batches)
        for index in range(7):
            truncate(own_dataset.path(index))
        # Those that were under way may still be whole.
        late = np.concatenate([batch.ids for batch in batches][8:])
        assert {found.path for found in loader.replaced} == set(own_dataset.paths[:7])
    assert late.min() == 7
    assert (late == 7).sum() > len(late) / 8


@needs_dali
def test_a_failure_without_a_broken_file_keeps_its_cause(
    dataset: LongTailedDataset, open_train: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastlt.data.loaders.dali import NativeFiles

    monkeypatch.setattr(NativeFiles, "path", lambda self, index: "/nowhere/at/all.jpg")
    with pytest.raises(RuntimeError, match=r"DALI .*batches 0 and 2") as caught:
        drain(open_train(dataset, "dali"))
    assert "/nowhere/at/all.jpg" in str(caught.value.__cause__)
