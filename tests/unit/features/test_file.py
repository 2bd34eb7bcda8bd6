"""Features in files: their two precisions, their checks, and files that are written in several tries."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlt.features import file as feature_file
from fastlt.features.file import FeatureWriter, Stored, read_record
from fastlt.files import write_json
from fastlt.files.checksums import file_checksums

OneBitOff = Callable[[bytes, np.random.Generator], bytes]
CPU = torch.device("cpu")


def key(precision: str = "fp32") -> dict:
    return {"weights": "w", "precision": precision}


def random_features(count: int = 20, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


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

        def fsync_array(number: int) -> None:
            if Path(f"/proc/self/fd/{number}").readlink() == array:
                fails()
            fsync(number)

        monkeypatch.setattr(os, "fsync", fsync_array)
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
