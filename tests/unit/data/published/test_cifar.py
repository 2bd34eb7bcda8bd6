"""CIFAR-10-LT and CIFAR-100-LT: the usual tail, from any form of the public archive, running nothing that is in it."""

import dataclasses
import hashlib
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fastlt.cli import dispatch
from fastlt.config import TrainConfig
from fastlt.data import decode_rgb, pack
from fastlt.data.published.cifar import (
    CIFAR,
    CifarSet,
    indices_hash,
    tail_counts,
    tail_indices,
)
from fastlt.data.published.cifar_archive import find_archive, read_cifar
from fastlt.data.published.interface import DataOptions
from fastlt.data.published.plain_pickle import load_plain
from fastlt.data.registry import PUBLISHED, open_data

PER_CLASS = 20
GOLDEN = "563055e23a86"
FORMS = ("cifar-10-batches-py", "cifar-10-batches-bin")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


def made_up(count: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), count // num_classes)
    random.shuffle(labels)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), labels


def write_archive(folder: Path, form: str) -> Path:
    """Write a small CIFAR-10 (20 train and 2 test images a class) in one of its two public forms."""
    inner = folder / form
    inner.mkdir(parents=True)
    pixels, labels = made_up(10 * PER_CLASS, 10, 0)
    names = [f"thing{label}" for label in range(10)]
    batches = {f"data_batch_{n + 1}": (pixels[n::5], labels[n::5]) for n in range(5)} | {
        "test_batch": made_up(20, 10, 1)
    }
    for name, (data, marks) in batches.items():
        if form.endswith("py"):
            # Protocol 2 names numpy as the public files, which Python 2 wrote, do
            content = pickle.dumps({b"data": data, b"labels": marks.tolist(), b"filenames": [b"a.png"]}, protocol=2)
            (inner / name).write_bytes(content)
        else:
            (inner / f"{name}.bin").write_bytes(np.hstack([marks[:, None].astype(np.uint8), data]).tobytes())
    if form.endswith("py"):
        meta = {b"label_names": [name.encode() for name in names]}
        (inner / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    else:
        (inner / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    return inner


def compress(folder: Path, form: str) -> Path:
    archive = folder / CIFAR["cifar10_lt"].archives[form]
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / form, form)
    for file in (folder / form).iterdir():
        file.unlink()
    (folder / form).rmdir()
    return archive


@pytest.mark.parametrize(
    ("num_classes", "most", "imbalance", "counts", "total"),
    [
        (10, 5000, 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50], 12406),
        (10, 5000, 10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500], 20431),
        (100, 500, 100, None, 10847),
        (100, 500, 50, None, 12608),
        (100, 500, 10, None, 19573),
    ],
)
def test_the_tail_is_the_usual_one(
    num_classes: int, most: int, imbalance: float, counts: list[int] | None, total: int
) -> None:
    report = tail_counts(num_classes, most, imbalance)
    assert report.sum() == total
    assert counts is None or report.tolist() == counts
    assert (report[0], report[-1]) == (most, most // imbalance)


def test_the_choice_is_that_of_the_usual_code_and_never_changes() -> None:
    labels = np.tile(np.arange(10), 5000)
    chosen = tail_indices(labels, 100, 0)
    np.testing.assert_array_equal(np.bincount(labels[chosen]), tail_counts(10, 5000, 100))
    # The usual code seeds numpy's global generator and shuffles the members of one class after the other
    np.random.seed(0)
    expected = []
    for label, count in enumerate(tail_counts(10, 5000, 100)):
        members = np.where(labels == label)[0]
        np.random.shuffle(members)
        expected.append(members[:count])
    np.testing.assert_array_equal(chosen, np.concatenate(expected))
    assert indices_hash(chosen) == GOLDEN
    assert indices_hash(tail_indices(labels, 100, 1)) != GOLDEN


@pytest.mark.parametrize("packed", [False, True], ids=["extracted", "archive"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_archive_gives_the_same_data_set(form: str, packed: bool, tmp_path: Path) -> None:
    write_archive(tmp_path / "data", form)
    if packed:
        compress(tmp_path / "data", form)
    splits = CIFAR["cifar10_lt"].open(tmp_path / "data", DataOptions(imbalance=10))
    pixels, labels = made_up(10 * PER_CLASS, 10, 0)
    order = np.concatenate([np.arange(10 * PER_CLASS)[n::5] for n in range(5)])
    pixels, labels = pixels[order], labels[order]
    chosen = tail_indices(labels, 10, 0)
    train = splits["train"]
    assert list(splits) == ["train", "val"]
    assert train.class_counts.tolist() == tail_counts(10, PER_CLASS, 10).tolist()
    assert train.class_names[3] == "thing3"
    np.testing.assert_array_equal(train.labels, labels[chosen])
    for index in (0, len(train) - 1):
        expected = pixels[chosen[index]].reshape(3, 32, 32).transpose(1, 2, 0)
        np.testing.assert_array_equal(decode_rgb(train.read(index)), expected)
        assert train.paths[index] == f"train/{chosen[index]:05}.png"
    assert splits["val"].class_counts.tolist() == [2] * 10
    again = CIFAR["cifar10_lt"].open(
        tmp_path / "data" / form if not packed else tmp_path / "data", DataOptions(imbalance=10)
    )
    assert again["train"].fingerprint == train.fingerprint


def test_hundred_fine_classes(tmp_path: Path) -> None:
    for form in ("cifar-100-python", "cifar-100-binary"):
        inner = tmp_path / form / form
        inner.mkdir(parents=True)
        for name, seed in (("train", 0), ("test", 1)):
            data, marks = made_up(200, 100, seed)
            coarse = marks // 5
            if form.endswith("python"):
                batch = {b"data": data, b"fine_labels": marks.tolist(), b"coarse_labels": coarse.tolist()}
                (inner / name).write_bytes(pickle.dumps(batch, protocol=2))
            else:
                rows = np.hstack([coarse[:, None].astype(np.uint8), marks[:, None].astype(np.uint8), data])
                (inner / f"{name}.bin").write_bytes(rows.tobytes())
        names = [f"fine{label}" for label in range(100)]
        (inner / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in names]}, protocol=2))
        (inner / "fine_label_names.txt").write_text("\n".join(names))
    read = [
        read_cifar(CIFAR["cifar100_lt"], tmp_path / form, "train") for form in ("cifar-100-python", "cifar-100-binary")
    ]
    np.testing.assert_array_equal(read[0][0], read[1][0])
    np.testing.assert_array_equal(read[0][1], read[1][1])
    assert read[0][2] == read[1][2]
    assert read[0][0].shape == (200, 32, 32, 3)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def test_nothing_in_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"\b(posix|os|nt)\.system\b"):
        load_plain(pickle.dumps({b"data": Evil()}))
    write_archive(tmp_path, FORMS[0])
    (tmp_path / FORMS[0] / "data_batch_3").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(ValueError, match=rf"{tmp_path}.*\b(posix|os|nt)\.system\b.*public archive"):
        CIFAR["cifar10_lt"].open(tmp_path, DataOptions())
    assert not (tmp_path / "evil").exists()
    with pytest.raises(ValueError, match="public archive"):
        load_plain(pickle.dumps(np.random.default_rng(0)))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_whole_archive_is_said_in_one_line(form: str, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=rf"^--data-root: .*{tmp_path}\b.*cifar-10-python\.tar\.gz.*--dataset cifar10_lt\b"
    ):
        CIFAR["cifar10_lt"].open(tmp_path, DataOptions())
    inner = write_archive(tmp_path, form)
    file = next(inner.glob("data_batch_2*"))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cifar-10-\S+ .*public archive"):
        CIFAR["cifar10_lt"].open(tmp_path, DataOptions())
    file.unlink()
    with pytest.raises(ValueError, match=r"cifar-10-\S+ .*data_batch_2"):
        CIFAR["cifar10_lt"].open(tmp_path, DataOptions())
    archive = compress(tmp_path, form)
    with pytest.raises(ValueError, match=r"cifar-10-\S+ .*'data_batch_2"):
        CIFAR["cifar10_lt"].open(tmp_path, DataOptions())
    archive.write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cifar-10-\S+ .*public archive"):
        CIFAR["cifar10_lt"].open(tmp_path, DataOptions())


def test_settings_reach_the_choice(tmp_path: Path) -> None:
    write_archive(tmp_path, FORMS[1])
    config = TrainConfig(dataset="cifar10_lt", data_root=tmp_path, imbalance=10)
    first = open_data(config)["train"]
    assert len(open_data(dataclasses.replace(config, imbalance=5))["train"]) > len(first)
    other = open_data(dataclasses.replace(config, data_seed=1))["train"]
    assert (len(other), other.paths != first.paths) == (len(first), True)
    with pytest.raises(ValueError, match=r"^--imbalance: got 100\b.*\b20\b"):
        open_data(dataclasses.replace(config, imbalance=100))
    with pytest.raises(ValueError, match=r"^--imbalance: got 0\b"):
        dataclasses.replace(config, imbalance=0)


def test_a_cifar_can_be_packed_and_used_without_its_archive(tmp_path: Path) -> None:
    write_archive(tmp_path / "data", FORMS[1])
    splits = CIFAR["cifar10_lt"].open(tmp_path / "data", DataOptions(imbalance=10))
    pack(splits, tmp_path / "pack", dataset="cifar10_lt")
    packed = CIFAR["cifar10_lt"].open(tmp_path / "pack", DataOptions())
    assert packed["train"].fingerprint == splits["train"].fingerprint
    with pytest.raises(
        ValueError,
        match=r"pack\b.*\bcifar10_lt\b.*--dataset cifar100_lt\b|--dataset: got cifar100_lt\b.*\bcifar10_lt\b",
    ):
        CIFAR["cifar100_lt"].open(tmp_path / "pack", DataOptions())


def test_the_archive_is_found_from_inside(tmp_path: Path) -> None:
    inner = write_archive(tmp_path, FORMS[0])
    assert find_archive(CIFAR["cifar10_lt"], inner) == (FORMS[0], inner)


def as_published(folder: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> CifarSet:
    """Say that the small archive in a folder is the public one."""
    files = {file.name: file for file in (folder / form).iterdir()} if form.endswith("py") else {}
    md5 = {name: hashlib.md5(file.read_bytes()).hexdigest() for name, file in files.items()}
    spec = dataclasses.replace(CIFAR["cifar10_lt"], per_class={"train": PER_CLASS, "test": 2}, md5=md5)
    monkeypatch.setitem(PUBLISHED, "cifar10_lt", spec)
    return spec


@pytest.mark.parametrize("packed", [False, True], ids=["extracted", "archive"])
@pytest.mark.parametrize("form", FORMS)
def test_verification_says_what_was_chosen(
    form: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "a root"
    write_archive(root, form)
    spec = as_published(root, form, monkeypatch)
    archive = compress(root, form) if packed else None
    if archive is not None:
        spec.md5[archive.name] = hashlib.md5(archive.read_bytes()).hexdigest()
    command = ["data", "verify", "--dataset", "cifar10_lt", "--data-root", str(root), "--imbalance", "10"]
    dispatch([*command, "--json", str(tmp_path / "found.json")])
    chosen = tail_indices(read_cifar(spec, root, "train")[1], 10, 0)
    out = capsys.readouterr().out
    assert f"{len(chosen)} train images, imbalance 10, seed 0: indices {indices_hash(chosen)}" in out
    assert f"next: fastlt train --dataset cifar10_lt --data-root '{root}' --imbalance 10" in out
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["problems"] == []
    assert (report["num_sampled"], report["decode_ms"], report["num_images"]) == (0, None, {"train": len(chosen)})
    assert all(check["ok"] for check in report["checks"])
    assert len(report["checks"]) == 4 + len(spec.md5)
    dispatch([*command, "--data-seed", "1"])
    assert indices_hash(chosen) not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"^--lists: got lists\b.*--dataset cifar10_lt\b"):
        dispatch([*command, "--lists", "lists"])


def test_verification_finds_what_is_not_the_public_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = write_archive(tmp_path, FORMS[0])
    spec = as_published(tmp_path, FORMS[0], monkeypatch)
    batch = inner / "data_batch_2"
    content = batch.read_bytes()
    at = content.index(b"a.png")
    batch.write_bytes(content[:at] + b"b" + content[at + 1 :])
    problems = spec.verify(tmp_path, DataOptions(imbalance=10)).problems
    assert [problem.split()[:2] for problem in problems] == [["data_batch_2", "md5"]]
    batch.unlink()
    report = spec.verify(tmp_path, DataOptions(imbalance=10))
    assert (report.problems, report.indices) == (["data_batch_2 none, expected a file"], None)
    command = ["data", "verify", "--dataset", "cifar10_lt", "--data-root", str(tmp_path), "--imbalance", "10"]
    with pytest.raises(ValueError, match=rf"{tmp_path}\b.*CIFAR-10\b.*data_batch_2.*public archive"):
        dispatch(command)
    batch.write_bytes(content[:1000])
    with pytest.raises(ValueError, match=r"cifar-10-\S+ .*public archive"):
        dispatch(command)
    batch.write_bytes(content)
    spec.md5["cifar-10-python.tar.gz"] = "another"
    compress(tmp_path, FORMS[0])
    anew = spec.verify(tmp_path, DataOptions(imbalance=10))  # an archive packed anew, of the published files
    assert anew.problems == []
    assert [check.what for check in anew.checks if check.ok is None] == ["cifar-10-python.tar.gz md5"]


def test_a_binary_archive_is_judged_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path, FORMS[1])
    spec = as_published(tmp_path, FORMS[1], monkeypatch)
    compress(tmp_path, FORMS[1])
    spec.md5["cifar-10-binary.tar.gz"] = "another"
    assert [problem.split()[0] for problem in spec.verify(tmp_path, DataOptions(imbalance=10)).problems] == [
        "cifar-10-binary.tar.gz"
    ]
    few = dataclasses.replace(spec, per_class={"train": 30, "test": 2})
    assert "train images 200, expected 300" in few.verify(tmp_path, DataOptions(imbalance=10)).problems


def test_a_pack_of_cifar_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "data", FORMS[1])
    spec = as_published(tmp_path / "data", FORMS[1], monkeypatch)
    pack(
        CIFAR["cifar10_lt"].open(tmp_path / "data", DataOptions(imbalance=10)), tmp_path / "pack", dataset="cifar10_lt"
    )
    assert spec.verify(tmp_path / "pack", DataOptions(imbalance=10)).problems == []
    assert (
        "train per class 20 to 2, expected 20 to 4" in spec.verify(tmp_path / "pack", DataOptions(imbalance=5)).problems
    )


@pytest.mark.parametrize("name", CIFAR)
def test_the_published_checksums_are_of_files_that_are_read(name: str) -> None:
    spec = CIFAR[name]
    pickled = next(iter(spec.archives))
    members = {*spec.train, *spec.test, spec.names_file[pickled]}
    assert spec.md5.keys() == members | set(spec.archives.values())
    assert len(set(spec.md5.values())) == len(spec.md5)
    assert all(len(bytes.fromhex(digest)) == 16 for digest in spec.md5.values())
    assert {split: count * spec.num_classes for split, count in spec.per_class.items()} == {
        "train": 50_000,
        "test": 10_000,
    }


def test_training_on_it_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "data", FORMS[1])
    options = "--epochs 1 --batch-size 32 --lr 0.025 --imbalance 10 --device cpu --num-threads 1 --no-compile --out run"
    dispatch(["train", "--dataset", "cifar10_lt", "--data-root", str(tmp_path / "data"), *options.split()])
    assert (tmp_path / "run" / "checkpoints" / "best.safetensors").is_file()
