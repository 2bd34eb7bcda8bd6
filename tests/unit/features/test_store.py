"""Features in memory and in files: their two precisions, their checks, and files that are written in several tries."""

import dataclasses
import errno
import json
import os
import re
from collections.abc import Callable
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
from fastlt.features import file as feature_file
from fastlt.features.arrays import Features
from fastlt.features.file import FeatureWriter, Record, Stored, read_record
from fastlt.features.store import FeatureStore, hash_tensors
from fastlt.files import write_json
from fastlt.files.checksums import file_checksums
from fastlt.rebalancing.engine.folds import stratified_folds

OneBitOff = Callable[[bytes, np.random.Generator], bytes]
CPU = torch.device("cpu")


def key(precision: str = "fp32") -> dict:
    return {"weights": "w", "precision": precision}


def random_features(count: int = 20, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


def test_features_are_made_of_tensors_and_arrays() -> None:
    x, y = random_features(), torch.arange(20) % 3
    for features in (Features.of(x, y), Features.of(x.double().numpy(), y.int().numpy())):
        assert (len(features), features.num_features) == (20, 6)
        for got, expected in zip(features.tensors(CPU), (x, y), strict=True):
            torch.testing.assert_close(got, expected)
        torch.testing.assert_close(features.rows(np.array([3, 3, 0]), CPU), x[[3, 3, 0]])
        assert features.take(np.array([5, 1])).labels.tolist() == [2, 1]


@pytest.mark.parametrize(("shape", "count"), [((4,), 4), ((4, 2), 3), ((0, 2), 0)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(ValueError, match=rf"^features: .*{re.escape(str(list(shape)))}.*\[{count}\]"):
        Features.of(torch.zeros(shape), torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize("labels", [[0.0, 1.7], [0, -1]])
def test_labels_are_integers_from_0_up(labels: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^features: got labels .* from (0\.0|-1) up; expected integers"):
        Features.of(torch.zeros(2, 3), labels)


def test_features_that_are_not_finite_are_counted() -> None:
    x = random_features()
    x[3, 1], x[7, 0], x[7, 2] = float("nan"), float("inf"), float("nan")
    with pytest.raises(ValueError, match=r"^features of val: .*\b2 of 20 .*NaN"):
        Features.of(x, torch.zeros(20, dtype=torch.long), name="features of val")


LABELS = np.arange(20) % 3


def stored_in(folder: Path) -> Stored:
    return Stored(array=folder / "x.features.npy", labels=folder / "x.labels.npy", record=folder / "x.json")


def write(folder: Path, x: torch.Tensor, precision: str, blocks: list[slice], *, finish: bool = True) -> Stored:
    stored = stored_in(folder)
    writer = FeatureWriter(stored.partial, stored.record, key(precision), tuple(x.shape))
    with writer:
        for block in blocks:
            writer.append(x[block])
    if finish:
        writer.finish(stored, np.resize(LABELS, len(x)))
    return stored


def written_by_an_earlier_version(stored: Stored) -> None:
    """Take the checksums out of a record."""
    record = json.loads(stored.record.read_text())
    write_json(stored.record, {name: record[name] for name in ("key", "shape", "num_done")})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_file_holds_the_features_in_its_precision(tmp_path: Path, precision: str) -> None:
    x = random_features()
    stored = write(tmp_path, x, precision, [slice(0, 7), slice(7, 20)])
    features = stored.read(key(precision))
    expected = x if precision == "fp32" else x.bfloat16().float()
    assert torch.equal(features.tensors(CPU)[0], expected)
    assert torch.equal(features.rows(np.array([19, 2]), CPU), expected[[19, 2]])
    assert features.features.nbytes == 20 * 6 * (4 if precision == "fp32" else 2)
    assert np.array_equal(features.labels, LABELS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.features.npy", "x.json", "x.labels.npy"]
    with pytest.raises(FileNotFoundError):
        stored.read(key("other"))
    written_by_an_earlier_version(stored)
    assert torch.equal(stored.read(key(precision)).tensors(CPU)[0], expected)


def test_features_of_another_shape_or_type_than_recorded_are_damaged(tmp_path: Path) -> None:
    x = random_features()
    stored = write(tmp_path, x, "fp32", [slice(0, 20)])
    written_by_an_earlier_version(stored)
    turned = np.asfortranarray(x.numpy())
    for other in (x.numpy().astype(">f4"), x.numpy().view("<i4"), turned, x.numpy()[:, :5], x.numpy().reshape(6, 20)):
        np.save(stored.array, other)
        with pytest.raises(ValueError, match=rf"^{stored.array}: got "):
            stored.read(key())
    np.save(stored.array, x.numpy())
    for labels in (LABELS[:19], LABELS * 0.5):
        np.save(stored.labels, labels)
        with pytest.raises(ValueError, match=rf"^{stored.labels}: got "):
            stored.read(key())
    np.save(stored.labels, LABELS)
    os.truncate(stored.array, 150)  # as a copy that was cut short
    with pytest.raises(ValueError, match=rf"^{stored.array}: got "):
        stored.read(key())


def test_features_that_are_replaced_while_they_are_read_are_not_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random_features()
    stored = write(tmp_path, x, "fp32", [slice(0, 20)])
    original = feature_file.read_array

    def slow(path: Path, **settings: Any) -> Any:
        other = FeatureWriter(stored.partial, stored.record, key() | {"weights": "other"}, tuple(x.shape))
        with other:
            other.append(x + 1)
        other.finish(stored, LABELS)
        return original(path, **settings)

    monkeypatch.setattr(feature_file, "read_array", slow)
    with pytest.raises(FileNotFoundError, match=str(stored.array)):
        stored.read(key())


def test_no_damage_returns_other_features(tmp_path: Path, one_bit_off: OneBitOff) -> None:
    x = random_features()
    stored = write(tmp_path, x, "fp32", [slice(0, 20)])
    whole = {file: file.read_bytes() for file in stored}
    draws = np.random.default_rng(0)
    found = 0
    for file, content in whole.items():
        for _ in range(200):
            file.write_bytes(one_bit_off(content, draws))
            try:
                features = stored.read(key())
            except (ValueError, FileNotFoundError):
                found += 1
            else:
                assert np.array_equal(features.features, x.numpy())
                assert np.array_equal(features.labels, LABELS)
        file.write_bytes(content)
    assert 400 <= found < 600  # blanks between the words of a record may change


LARGE = torch.arange(5 * 2**18, dtype=torch.float32).reshape(-1, 256)  # two pieces of checksums


@pytest.mark.parametrize(
    ("at", "lost"),
    [(None, 0), (130, 5120), (2**22 + 5000, 1024 + 1), ("record", 5120)],  # the piece begins within a row
)
def test_an_interrupted_file_goes_on_as_far_as_it_is_whole(tmp_path: Path, at: int | str | None, lost: int) -> None:
    stored = write(tmp_path, LARGE, "fp32", [slice(0, 3000), slice(3000, 5120)], finish=False)
    if at == "record":
        stored.record.write_text(stored.record.read_text()[:-9])
    elif at is not None:
        with stored.partial.open("r+b") as file:
            file.seek(int(at))
            file.write(b"xyz")
    again = FeatureWriter(stored.partial, stored.record, key(), tuple(LARGE.shape))
    assert again.num_done == 5120 - lost
    with again:
        again.append(LARGE[again.num_done :])
    again.finish(stored, np.arange(5120))
    assert np.array_equal(stored.read(key()).features, LARGE.numpy())


def test_no_damage_to_an_interrupted_file_is_taken_over(tmp_path: Path, one_bit_off: OneBitOff) -> None:
    x = random_features()
    stored = write(tmp_path, x, "fp32", [slice(0, 8), slice(8, 15)], finish=False)
    whole = {file: file.read_bytes() for file in (stored.partial, stored.record)}
    draws = np.random.default_rng(0)
    for file in whole:
        for _ in range(30):
            for each, content in whole.items():
                each.write_bytes(content)
            file.write_bytes(one_bit_off(whole[file], draws))
            writer = FeatureWriter(stored.partial, stored.record, key(), (20, 6))
            with writer:
                writer.append(x[writer.num_done :])
            writer.finish(stored, LABELS)
            assert np.array_equal(stored.read(key()).features, x.numpy())


def test_an_interrupted_file_goes_on_after_its_last_recorded_block(tmp_path: Path) -> None:
    x, stored = random_features(), stored_in(tmp_path)
    writer = FeatureWriter(stored.partial, stored.record, key(), (20, 6))
    writer.__enter__()
    writer.append(x[:8])
    writer.save()
    writer.append(x[8:13])  # written, perhaps, but not recorded: the process dies here
    writer.file.close()
    with pytest.raises(FileNotFoundError):
        stored.read(key())
    again = FeatureWriter(stored.partial, stored.record, key(), (20, 6))
    assert again.num_done == 8
    written_by_an_earlier_version(stored)
    assert FeatureWriter(stored.partial, stored.record, key(), (20, 6)).num_done == 8
    with again:
        again.append(x[8:])
    again.finish(stored, LABELS)
    assert np.array_equal(stored.read(key()).features, x.numpy())


@pytest.mark.parametrize("left", ["labels", "record", "array"])
def test_features_that_lack_only_their_name_are_taken_over(tmp_path: Path, left: str) -> None:
    x, stored = random_features(), stored_in(tmp_path)
    writer = FeatureWriter(stored.partial, stored.record, key(), (20, 6))
    with writer:
        writer.append(x)
    if left == "record":  # killed when the labels were there
        np.save(stored.labels, LABELS)
    elif left == "array":  # killed when the record was there too
        np.save(stored.labels, LABELS)
        writer.write_record(file_checksums(stored.labels))
    with pytest.raises(FileNotFoundError):
        stored.read(key())
    again = FeatureWriter(stored.partial, stored.record, key(), (20, 6))
    assert again.num_done == 20
    again.finish(stored, LABELS)
    assert np.array_equal(stored.read(key()).features, x.numpy())


@pytest.mark.parametrize("call", ["open", "write", "replace"])
def test_a_disk_that_fails_names_the_finished_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "open":
        (tmp_path / "x.features.partial").mkdir()
    elif call == "write":
        fsync = os.fsync
        array = tmp_path / "x.features.partial"
        is_array = lambda number: Path(f"/proc/self/fd/{number}").readlink() == array  # noqa: E731
        monkeypatch.setattr(os, "fsync", lambda number: fails() if is_array(number) else fsync(number))
    else:
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: fails() if "x.features" in str(a) else replace(a, b))
    with pytest.raises(OSError, match=r".") as caught:
        write(tmp_path, random_features(), "fp32", [slice(0, 20)])
    assert caught.value.filename == str(tmp_path / "x.features.npy")


def test_blocks_are_recorded_as_time_goes_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_file, "SAVE_EVERY_S", 0.0)
    with FeatureWriter(tmp_path / "x.partial", tmp_path / "x.json", key(), (20, 6)) as writer:
        writer.append(random_features()[:5])
        record = read_record(tmp_path / "x.json")
        assert record is not None
        assert record.num_done == 5


def test_progress_under_another_key_is_not_used(tmp_path: Path) -> None:
    stored = write(tmp_path, random_features(), "fp32", [slice(0, 8)], finish=False)
    assert FeatureWriter(stored.partial, stored.record, key(), (20, 6)).num_done == 8
    for other, shape in ((key("bf16"), (20, 6)), (key(), (20, 7)), (key(), (21, 6))):
        assert FeatureWriter(stored.partial, stored.record, other, shape).num_done == 0


def test_a_file_that_ended_early_is_not_called_complete(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="8 of 20 images"):
        write(tmp_path, random_features(), "fp32", [slice(0, 8)])


CONFIG = TrainConfig(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), seed=1)


def key_of(view: int, *, split: str = "train", precision: str = "fp32", fingerprint: str = "d", **changes: Any) -> dict:
    store = object.__new__(FeatureStore)
    store.backbone_hash = changes.pop("backbone_hash", "w")
    store.precision = precision
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


def test_folds_share_every_class_evenly() -> None:
    labels = np.random.default_rng(1).integers(0, 7, 203)
    folds = stratified_folds(labels, seed=5)
    assert np.ptp(np.bincount(folds)) <= 1
    for c in range(7):
        assert np.ptp(np.bincount(folds[labels == c], minlength=5)) <= 1
    assert np.array_equal(folds, stratified_folds(labels, seed=5))
    assert not np.array_equal(folds, stratified_folds(labels, seed=6))
    with pytest.raises(ValueError, match=r"^--select-on: got folds\b.*\b4 val images.*\b5\b"):
        stratified_folds(labels[:4])


def test_images_come_in_pieces_as_large_as_those_of_training() -> None:
    config = TrainConfig(batch_size=24, accumulate=4)
    store = SimpleNamespace(
        run=SimpleNamespace(config=config), device=torch.device("cpu"), loader="auto", num_threads=1
    )
    assert FeatureStore.loader_settings.fget(store)["batch_size"] == 6  # type: ignore[attr-defined]
