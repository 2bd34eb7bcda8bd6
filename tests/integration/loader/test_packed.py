"""Packs: the same pixels as the files, readable with tar, and nothing lost when one is interrupted."""

import pickle
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastlt.data import LongTailedDataset, decode_rgb, open_splits, pack, verify_pack
from fastlt.data.loaders.loader import eval_loader
from fastlt.data.packs.write import make_item, member_names
from fastlt.data.tar import Item, TarWriter
from fastlt.data.transforms.augmentation import EvalTransform

BACKENDS = ("memory", "device", "pillow", "dali")


@pytest.fixture
def root(shared_folder: Path, tmp_path: Path) -> Path:
    """Train and val; one image of train is one that DALI does not decode."""
    root = tmp_path / "raw"
    for split in ("train", "val"):
        shutil.copytree(shared_folder, root / split)
    Image.new("RGB", (60, 50), (200, 30, 60)).quantize(8).save(root / "train" / "class1" / "palette image.png")
    return root


@pytest.fixture
def splits(root: Path) -> dict[str, LongTailedDataset]:
    return open_splits(root)


def bytes_of(dataset: LongTailedDataset) -> list[bytes]:
    return [dataset.read(index) for index in range(len(dataset))]


def test_a_pack_holds_the_same_files_and_is_the_same_data_set(
    splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    summary = pack(splits, tmp_path / "pack", num_threads=2)
    packed = open_splits(tmp_path / "pack")
    assert list(packed) == ["train", "val"]
    for name, dataset in packed.items():
        raw = splits[name]
        assert (dataset.paths, dataset.class_names, dataset.fingerprint) == (
            raw.paths,
            raw.class_names,
            raw.fingerprint,
        )
        for field in ("labels", "sizes", "native"):
            np.testing.assert_array_equal(getattr(dataset, field), getattr(raw, field))
        assert bytes_of(dataset) == bytes_of(raw)
    assert summary.num_images == {name: len(split) for name, split in splits.items()}
    assert verify_pack(tmp_path / "pack") == sum(map(len, splits.values()))


def test_tar_reads_it_and_the_lists_beside_it_name_the_images(
    splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    pack(splits, tmp_path / "pack")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "xf", tmp_path / "pack" / "train.tar", "-C", unpacked], check=True)
    again = LongTailedDataset.from_list(tmp_path / "pack" / "train.txt", unpacked)
    assert bytes_of(again) == bytes_of(splits["train"])
    np.testing.assert_array_equal(again.labels, splits["train"].labels)


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_gets_the_same_batches_from_files_and_from_a_pack(
    backend: str, splits: dict[str, LongTailedDataset], tmp_path: Path, open_train: Callable[..., Any]
) -> None:
    pack(splits, tmp_path / "pack")
    packed = open_splits(tmp_path / "pack")
    for dataset, other in ((splits["train"], packed["train"]),):
        with open_train(dataset, backend) as raw, open_train(other, backend) as loader:
            for left, right in zip(raw, loader, strict=True):
                np.testing.assert_array_equal(left.ids, right.ids)
                np.testing.assert_array_equal(left.images.numpy(), right.images.numpy())


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_gets_the_same_batches_from_files_and_from_a_pack(
    backend: str, splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    pack(splits, tmp_path / "pack")
    transform = EvalTransform(size=24, resize=28)
    batches = []
    for dataset in (splits["train"], open_splits(tmp_path / "pack")["train"]):
        with eval_loader(dataset, transform, batch_size=7, backend=backend, num_threads=1) as loader:
            batches.append(np.concatenate([batch.images.numpy() for batch in loader]))
    np.testing.assert_array_equal(*batches)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_of_a_pack_that_cannot_be_decoded_is_replaced_as_in_a_folder(
    backend: str, root: Path, tmp_path: Path, open_train: Callable[..., Any]
) -> None:
    file = root / "train" / "class0" / "03.jpg"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff\xd8" * 100  # markers inside the scan: whole by its header only
    file.write_bytes(content)
    splits = open_splits(root)
    pack(splits, tmp_path / "pack")
    seen = []
    for dataset in (splits["train"], open_splits(tmp_path / "pack")["train"]):
        with open_train(dataset, backend) as loader:
            ids = [batch.ids.tolist() for batch in loader]
            seen.append((ids, [(each.path, each.substitute) for each in loader.replaced]))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_whose_bytes_have_changed_since_it_was_packed_is_replaced(
    backend: str, splits: dict[str, LongTailedDataset], tmp_path: Path, open_train: Callable[..., Any]
) -> None:
    pack(splits, tmp_path / "pack")
    tar = tmp_path / "pack" / "train.tar"
    content = bytearray(tar.read_bytes())
    with np.load(tmp_path / "pack" / "train.npz") as index:
        content[index["offsets"][3] + index["lengths"][3] // 2] ^= 1  # still decodes, to other pixels
    tar.write_bytes(content)
    with open_train(open_splits(tmp_path / "pack")["train"], backend) as loader:
        ids = np.concatenate([batch.ids for batch in loader])
        assert [(each.path, each.reason) for each in loader.replaced] == [
            (splits["train"].paths[3], "its bytes have changed since it was packed")
        ]
    assert 3 not in ids


def test_smaller_images_have_the_short_side_and_nearly_the_same_picture(
    splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    pack(splits, tmp_path / "pack", short_side=48, quality=95)
    packed, raw = open_splits(tmp_path / "pack")["train"], splits["train"]
    assert packed.fingerprint != raw.fingerprint
    assert packed.sizes.min(axis=1).max() == 48
    for index in range(len(raw)):
        width, height = raw.sizes[index].tolist()
        if min(width, height) <= 48:
            assert packed.read(index) == raw.read(index)
            continue
        pixels = decode_rgb(packed.read(index))
        assert pixels.shape[1::-1] == tuple(packed.sizes[index].tolist())
        assert packed.native[index]
        original = Image.fromarray(decode_rgb(raw.read(index)))
        expected = np.asarray(original.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR), np.float64)
        assert np.abs(pixels - expected).mean() < 8  # another picture is at 60
    assert "class1/palette image.png.jpg" in packed.paths


def test_an_interrupted_pack_is_said_to_be_one_and_goes_on_where_it_stopped(
    splits: dict[str, LongTailedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(splits, tmp_path / "whole")
    out = tmp_path / "pack"
    made: list[int] = []

    def stop_at_20(dataset: LongTailedDataset, index: int, **options: Any) -> Item:
        if index == 20:
            raise KeyboardInterrupt
        return make_item(dataset, index, **options)

    def count(dataset: LongTailedDataset, index: int, **options: Any) -> Item:
        made.append(index)
        return make_item(dataset, index, **options)

    monkeypatch.setattr("fastlt.data.packs.write.make_item", stop_at_20)
    with pytest.raises(KeyboardInterrupt):
        pack(splits, out, num_threads=1)
    with pytest.raises(ValueError, match=rf"{out}\b.*\b20 of 27 train, 0 of 26 val\b.*`fastlt data pack`"):
        open_splits(out)
    # What a write that was cut short leaves behind
    with (out / ".train.tar.partial").open("ab") as tar:
        tar.write(b"half an image")
    with (out / ".train.tar.journal").open("ab") as journal:
        journal.write(b"half a record")
    monkeypatch.setattr("fastlt.data.packs.write.make_item", count)
    summary = pack(splits, out, num_threads=1)
    assert summary.num_kept == 20
    assert sorted(made) == sorted([*range(20, 27), *range(26)])
    for file in ("train.tar", "val.tar", "pack.json"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not list(out.glob(".*"))


def test_a_record_whose_image_is_not_on_the_disk_is_not_believed(tmp_path: Path) -> None:
    names = ["0.jpg", "1.jpg", "2.jpg"]
    writer = TarWriter(tmp_path / "a.tar", names)
    for number in range(3):
        writer.append(Item(bytes([number]) * 700, 1, 1, True))
    writer.close()
    partial = tmp_path / ".a.tar.partial"
    with partial.open("r+b") as tar:
        tar.truncate(partial.stat().st_size - 1)
    writer = TarWriter(tmp_path / "a.tar", names)
    assert len(writer) == 2
    writer.append(Item(b"\2" * 700, 1, 1, True))
    writer.finish()
    writer.place()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == names


def test_damage_is_found_and_named(splits: dict[str, LongTailedDataset], tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack(splits, out)
    tar = out / "train.tar"
    content = bytearray(tar.read_bytes())
    with np.load(out / "train.npz") as index:
        content[index["offsets"][5] + 100] ^= 1
    tar.write_bytes(content)
    with pytest.raises(ValueError, match=r"\b1 damaged images.*train\.tar: class0/05\.jpg\b"):
        verify_pack(out)
    tar.write_bytes(content[:-512])
    with pytest.raises(ValueError, match=r"train\.tar\b.*[\d,]+ bytes.*[\d,]+"):
        open_splits(out)


def test_a_folder_with_something_else_is_left_alone(splits: dict[str, LongTailedDataset], tmp_path: Path) -> None:
    pack(splits, tmp_path / "pack")
    with pytest.raises(ValueError, match=f"^--out: got {tmp_path}/pack,.*other"):
        pack(splits, tmp_path / "pack", short_side=48)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ValueError, match=rf"{tmp_path}/mine\b.*empty"):
        pack(splits, tmp_path / "mine")


def test_members_are_safe_to_extract_and_no_name_comes_twice(splits: dict[str, LongTailedDataset]) -> None:
    class Paths:
        paths = ("../a/x.jpg", "/b/x.jpg", "c/x.png", "c/x.png.jpg", "./c/x.png")

    assert member_names(Paths(), reencoded=False) == ["_/a/x.jpg", "b/x.jpg", "c/x.png", "c/x.png.jpg", "c/x~1.png"]  # type: ignore[arg-type]
    names = member_names(Paths(), reencoded=True)  # type: ignore[arg-type]
    assert len(set(names)) == 5
    assert all(name.endswith(".jpg") for name in names)


def test_a_long_name_and_another_alphabet_survive(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    name = "д" * 60 + "/" + "x" * 120 + ".png"
    for split in ("train", "val"):
        file = folder / split / name
        file.parent.mkdir(parents=True)
        Image.new("RGB", (9, 8)).save(file)
    pack(open_splits(folder), tmp_path / "pack")
    packed = open_splits(tmp_path / "pack")["train"]
    assert packed.paths == (name,)
    assert packed.read(0) == (folder / "train" / name).read_bytes()
    assert verify_pack(tmp_path / "pack") == 2
    with tarfile.open(tmp_path / "pack" / "train.tar") as tar:
        assert tar.getnames() == [name]


def test_a_packed_data_set_goes_to_another_process(splits: dict[str, LongTailedDataset], tmp_path: Path) -> None:
    pack(splits, tmp_path / "pack")
    packed = open_splits(tmp_path / "pack")["train"]
    first = packed.read(0)
    sent = pickle.dumps(packed)
    assert len(sent) < 20_000
    assert pickle.loads(sent).read(0) == first
