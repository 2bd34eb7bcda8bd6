"""The feature store of a finished run: views, precisions, resumption, other networks, broken weights."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fastlt import Run
from fastlt.checkpoints import native
from fastlt.features import file as feature_file
from fastlt.features.file import FeatureWriter
from fastlt.features.store import FeatureStore

CPU = torch.device("cpu")


def store_of(run: Run, **options: str) -> FeatureStore:
    return FeatureStore(run, device=CPU, num_threads=1, **options)


@contextlib.contextmanager
def counted_images(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the images that are written to stores."""
    counts: list[int] = []
    original = FeatureWriter.append
    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "append", lambda self, x: (counts.append(len(x)), original(self, x))[1])
        yield counts


def test_an_interrupted_extraction_goes_on_where_it_stopped(run_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.array(store_of(run_copy).split("train").features)
    (run_copy.path / "features" / "train.json").unlink()
    monkeypatch.setattr(feature_file, "SAVE_EVERY_S", 0.0)
    original, left = FeatureWriter.append, [4]

    def dies(self: FeatureWriter, features: torch.Tensor) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        original(self, features)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            store_of(run_copy).split("train")
    assert not (run_copy.path / "features" / "train.features.npy").exists()
    with counted_images(monkeypatch) as counts:
        resumed = store_of(run_copy).split("train").features
    assert sum(counts) == len(whole) - 4 * 32
    np.testing.assert_allclose(resumed, whole, atol=1e-5)
    with counted_images(monkeypatch) as counts:
        store_of(run_copy).split("train")
    assert counts == []


def test_views_are_augmented_and_the_same_every_time(run_copy: Run) -> None:
    first = store_of(run_copy).views(3)
    assert not (first[0].features == first[1].features).all()
    assert not (first[1].features == first[2].features).all()
    assert all(np.array_equal(view.labels, first[0].labels) for view in first)
    evaluated = store_of(run_copy).split("train")
    assert np.array_equal(evaluated.features, first[0].features)
    kept = np.array(first[1].features)
    stored = list((run_copy.path / "features").glob("train.view1.*"))
    assert len(stored) == 2
    for path in stored:
        path.unlink()
    np.testing.assert_allclose(store_of(run_copy, loader="pillow").views(2)[1].features, kept, atol=1e-5)


def test_bf16_halves_the_training_features_and_leaves_the_scored_ones(run_copy: Run) -> None:
    exact = {name: np.array(store_of(run_copy).split(name).features) for name in ("train", "val")}
    store = store_of(run_copy, precision="bf16")
    train = store.split("train")
    assert train.features.nbytes * 2 == exact["train"].nbytes
    assert torch.equal(train.tensors(CPU)[0], torch.from_numpy(exact["train"]).bfloat16().float())
    assert np.array_equal(store.split("val").features, exact["val"])


def test_features_in_full_precision_stand_in_for_those_that_a_gpu_would_compute_in_a_lower_one(run_copy: Run) -> None:
    exact = np.array(store_of(run_copy).split("train").features)
    on_gpu = FeatureStore(run_copy, device=torch.device("cuda"), precision="tf32")
    assert np.array_equal(on_gpu.split("train").features, exact)


def test_a_store_of_other_weights_is_not_used(run_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(run_copy)
    before = np.array(store.split("val").features)
    same = store.with_backbone({**store.tensors, "fc.weight": store.tensors["fc.weight"] + 1}, "same")
    assert same is store
    changed = {**store.tensors, "bn1.running_mean": store.tensors["bn1.running_mean"] + 0.3}
    other = store.with_backbone(changed, "other")
    after = np.array(other.split("val").features)
    assert np.abs(after - before).max() > 1e-3
    assert np.array_equal(store.split("val").features, before)
    assert torch.equal(store.model.bn1.running_mean, store.tensors["bn1.running_mean"])
    with counted_images(monkeypatch) as counts:
        again = store_of(run_copy).with_backbone(changed, "another name")
        assert np.array_equal(again.split("val").features, after)
    assert counts == []


def test_weights_of_a_run_that_diverged_are_named(run_copy: Run) -> None:
    path = run_copy.checkpoint("best")
    tensors, metadata = native.load(path)
    tensors["bn1.bias"][0] = float("nan")
    native.save(path, tensors, metadata)
    with pytest.raises(ValueError, match=r"^features of val: .*\b32 of 32 images.*NaN"):
        store_of(run_copy).split("val")


def test_a_damaged_record_is_not_trusted(run_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store_of(run_copy).split("val")
    record = run_copy.path / "features" / "val.json"
    for content in ("", "[1]", '{"key": null}', record.read_text().replace('"view": 0', '"view": 1')):
        record.write_text(content)
        with counted_images(monkeypatch) as counts:
            store_of(run_copy).split("val")
        assert sum(counts) == 60


@pytest.mark.parametrize("name", ["val.features.npy", "val.labels.npy"])
def test_damaged_features_are_computed_again_and_named(
    run_copy: Run, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = store_of(run_copy).split("val")
    file = run_copy.path / "features" / name
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with counted_images(monkeypatch) as counts:
        after = store_of(run_copy).split("val")
    assert sum(counts) == 60
    assert np.array_equal(after.labels, before.labels)
    np.testing.assert_allclose(after.features, before.features, atol=1e-5)
    assert [str(file) in record.message for record in caplog.records if record.levelname == "WARNING"] == [True]
    assert not (run_copy.path / "features" / ".lock").exists()


def test_stored_features_are_read_where_nothing_can_be_written(run_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store_of(run_copy).split("val")

    def fail(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("fastlt.features.store.owned", fail)
    assert len(store_of(run_copy).split("val")) == 60
