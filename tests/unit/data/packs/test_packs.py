"""Packs that were interrupted, written by two at once, damaged, or made to deceive."""

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastlt.cli import dispatch
from fastlt.data import LongTailedDataset, open_pack, open_splits, pack, verify_pack
from fastlt.data.packs.items import make_item, member_names
from fastlt.data.packs.manifest import Packing, read_manifest
from fastlt.data.packs.write import write_pack
from fastlt.data.tar import RECORD
from fastlt.files import owned

NUM_IMAGES = {"train": 6, "val": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in NUM_IMAGES.items():
        for number in range(count):
            file = tmp_path / "raw" / split / f"class{number % 2}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (12, 10 + number, 3), dtype=np.uint8)).save(file)
    return tmp_path / "raw"


@pytest.fixture
def splits(root: Path) -> dict[str, LongTailedDataset]:
    return open_splits(root)


def files_of(out: Path) -> dict[str, Any]:
    """Return the content of a pack's files; arrays of an .npz, whose bytes hold the time."""
    read = {}
    for file in out.iterdir():
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                read[file.name] = {key: arrays[key].tolist() for key in arrays.files}
        else:
            read[file.name] = file.read_bytes()
    return read


def test_a_pack_killed_at_any_point_goes_on(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: Callable[[int, Callable[[], object]], bool],
) -> None:
    monkeypatch.setattr("fastlt.data.tar._COMMIT_BYTES", 1)  # a commit an image
    for file in root.rglob("[3-9].png"):
        file.unlink()
    splits = open_splits(root)
    pack(splits, tmp_path / "whole", num_threads=1)
    whole = files_of(tmp_path / "whole")
    for number in range(0, 1000, 5):
        out = tmp_path / f"pack{number}"
        if not killed_at(number, lambda out=out: pack(splits, out, num_threads=1)):  # type: ignore[misc]
            break
        pack(splits, out, num_threads=1)
        assert files_of(out) == whole, number
        shutil.rmtree(out)
    assert number > 30


def test_two_packs_into_one_folder_do_not_mix(splits: dict[str, LongTailedDataset], tmp_path: Path) -> None:
    out = tmp_path / "pack"
    with owned(out):
        with pytest.raises(ValueError, match=f"^{out}: .*process"):
            pack(splits, out)
        assert [file.name for file in out.iterdir()] == [".lock"]
    pack(splits, out)


def half_packed(splits: dict[str, LongTailedDataset], out: Path) -> tuple[Path, np.ndarray]:
    """Pack all train images but do not finish; return the journal and its records."""

    def stop(index: int) -> Any:
        if index == 5:
            raise KeyboardInterrupt
        return make_item(splits["train"], index, short_side=None, quality=95)

    train = splits["train"]
    packing = Packing(
        dataset="folder",
        short_side=None,
        quality=None,
        sources={name: split.fingerprint for name, split in splits.items()},
    )
    with pytest.raises(KeyboardInterrupt):
        write_pack(
            out,
            packing,
            class_names=train.class_names,
            names={name: member_names(split, reencoded=False) for name, split in splits.items()},
            labels={name: split.labels for name, split in splits.items()},
            makers={"train": stop, "val": stop},
            num_threads=1,
        )
    journal = out / ".train.tar.journal"
    return journal, np.frombuffer(journal.read_bytes(), RECORD).copy()


@pytest.mark.parametrize(
    ("order", "num_kept"), [([0, 1, 0, 1, 2], 2), ([1, 0, 2], 0), ([0, 1, 3, 2, 4], 2), ([0, 0, 1], 1)]
)
def test_a_journal_that_two_processes_wrote_is_cut_back_to_what_is_true(
    order: list[int], num_kept: int, splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    out = tmp_path / "pack"
    journal, records = half_packed(splits, out)
    assert len(records) == 5
    journal.write_bytes(records[order].tobytes())
    assert pack(splits, out).num_kept == num_kept
    assert verify_pack(out, sources=splits) == 8


@pytest.mark.parametrize("at", ["name", "bytes"])
def test_an_image_in_the_place_of_another_is_not_taken_over(
    at: str, splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    out = tmp_path / "pack"
    _, records = half_packed(splits, out)
    partial = out / ".train.tar.partial"
    content = bytearray(partial.read_bytes())
    content[records["offset"][3] + (-512 if at == "name" else 20)] ^= 1
    partial.write_bytes(content)
    assert pack(splits, out).num_kept == 3
    assert verify_pack(out, sources=splits) == 8


def test_a_finished_split_that_is_not_recorded_is_read_again(
    splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    out = tmp_path / "pack"
    pack(splits, out)
    forget(out, complete=False, splits={})
    assert pack(splits, out).num_kept == 8
    damage_image(out, 2)
    forget(out, complete=False, splits={})
    assert pack(splits, out).num_kept == 2
    assert verify_pack(out, sources=splits) == 8


def forget(out: Path, **changes: Any) -> None:
    """Make a pack look as earlier versions wrote it, without checksums of manifest and index."""
    content = json.loads((out / "pack.json").read_text())
    content.pop("checksum", None)
    for split in content["splits"].values():
        split.pop("index", None)
    (out / "pack.json").write_text(json.dumps(content | changes))


def damage_image(out: Path, index: int) -> None:
    with np.load(out / "train.npz") as arrays:
        at = int(arrays["offsets"][index]) + 50
    content = bytearray((out / "train.tar").read_bytes())
    content[at] ^= 1
    (out / "train.tar").write_bytes(content)


def test_verification_sees_what_a_checksum_cannot(
    root: Path, splits: dict[str, LongTailedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pack"

    def shifted(dataset: LongTailedDataset, index: int, **options: Any) -> Any:
        return make_item(dataset, index ^ 1 if dataset.split == "train" else index, **options)

    with monkeypatch.context() as patch:
        patch.setattr("fastlt.data.packs.write.make_item", shifted)
        pack(splits, out)
    assert verify_pack(out) == 8
    with pytest.raises(ValueError, match=r"\b6 damaged images, train\.tar: class0/0\.png \(.*source"):
        verify_pack(out, sources=splits)
    with pytest.raises(ValueError, match=r"\b6 damaged images"):
        dispatch(["data", "pack", str(root), "--out", str(out), "--verify"])


@pytest.mark.parametrize("short_side", [None, 8])
def test_verification_compares_bytes_names_and_labels_with_the_sources(
    short_side: int | None, root: Path, splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    out = tmp_path / "pack"
    pack(splits, out, short_side=short_side)
    assert verify_pack(out, sources=splits) == 8
    with np.load(out / "train.npz") as arrays:
        content = {key: arrays[key] for key in arrays.files}
    content["labels"] = 1 - content["labels"]
    np.savez(out / "train.npz", **content)
    forget(out)
    with pytest.raises(ValueError, match=r"\b6 damaged images.*label 1, but 0"):
        verify_pack(out, sources=splits)
    with pytest.raises(ValueError, match="val"):
        verify_pack(out, sources={"train": splits["train"]})
    file = root / "val" / "class0" / "0.png"
    Image.new("RGB", (10, 12)).save(file)
    content["labels"] = 1 - content["labels"]
    np.savez(out / "train.npz", **content)
    with pytest.raises(ValueError, match=r"\b1 damaged images, val\.tar: class0/0\.png"):
        verify_pack(out, sources=splits)


def test_a_damaged_image_is_noticed_when_it_is_first_read(splits: dict[str, LongTailedDataset], tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack(splits, out)
    train = open_pack(out)["train"]
    damage_image(out, 2)
    for dataset in (train, pickle.loads(pickle.dumps(train))):
        assert dataset.read(1) == splits["train"].read(1)
        with pytest.raises(OSError, match="its bytes have changed") as caught:
            dataset.read(2)
        assert str(caught.value.filename) == f"{out}/train.tar/{train.paths[2]}"


def test_a_pack_of_an_earlier_version_opens(splits: dict[str, LongTailedDataset], tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack(splits, out)
    forget(out)
    assert open_pack(out)["train"].read(0) == splits["train"].read(0)
    assert pack(splits, out).num_kept == 8
    assert read_manifest(out).splits["train"].index is not None


@pytest.mark.parametrize(
    ("key", "at", "value"),
    [
        ("lengths", 5, 10**12),
        ("lengths", 5, -1),
        ("lengths", 0, 5000),
        ("offsets", 0, -(2**62)),
        ("offsets", 5, 2**62),
        ("offsets", 1, 512),
        ("labels", 0, 10**9),
        ("labels", 0, -1),
        ("sizes", 0, 2**31 - 1),
        ("sizes", 0, 0),
    ],
)
def test_an_index_that_lies_is_refused(
    key: str, at: int, value: int, splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    out = tmp_path / "pack"
    pack(splits, out)
    with np.load(out / "train.npz") as arrays:
        content = {name: arrays[name].copy() for name in arrays.files}
    content[key][at] = value
    np.savez(out / "train.npz", **content)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^{out}/train\.npz: .*pack again"):
            open_pack(out)
        forget(out)  # the bounds hold without a hash, too


def test_an_index_of_another_pack_is_refused(splits: dict[str, LongTailedDataset], tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack(splits, out)
    with np.load(out / "train.npz") as arrays:
        content = {name: arrays[name] for name in arrays.files}
    content["labels"] = 1 - content["labels"]
    np.savez(out / "train.npz", **content)
    with pytest.raises(ValueError, match=rf"^{out}/train\.npz: .*hash"):
        open_pack(out)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", bytes(1000)])
def test_an_index_that_is_no_index_is_refused(
    content: bytes, splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    pack(splits, tmp_path / "pack")
    (tmp_path / "pack" / "train.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.npz"):
        open_pack(tmp_path / "pack")


@pytest.mark.parametrize(
    "change",
    [
        {"complete": "yes"},
        {"splits": []},
        {"splits": {}},
        {"splits": {"train": {"num_images": "6"}}},
        {"planned": None},
        {"planned": {"../../x": 1}},
        {"class_names": 5},
        {"class_names": ["a", 1]},
        {"sources": {"train": 1}},
        {"format": 2},
        {"format": []},
        {"checksum": "0"},
        {"dataset": "places_lt"},
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_in_one_line(
    change: dict[str, Any], splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    out = tmp_path / "pack"
    pack(splits, out)
    content = json.loads((out / "pack.json").read_text())
    (out / "pack.json").write_text(json.dumps(content | change))
    for call in (open_pack, lambda out: pack(splits, out)):
        with pytest.raises(ValueError, match=rf"^{out}(/pack\.json)?: got [^\n]*\Z"):
            call(out)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"a": ' + b"[" * 100_000, b'{"format": 1}', b"1e999"])
def test_a_manifest_that_is_no_json_is_refused_in_one_line(
    content: bytes, splits: dict[str, LongTailedDataset], tmp_path: Path
) -> None:
    out = tmp_path / "pack"
    pack(splits, out)
    (out / "pack.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{out}/pack\.json: got [^\n]*\Z"):
        open_pack(out)


def test_names_that_are_not_utf_8_survive(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = os.fsencode(tmp_path / "raw" / split) + b"/caf\xe9"
        Path(os.fsdecode(folder)).mkdir(parents=True)
        content = io.BytesIO()
        Image.new("RGB", (9, 8)).save(content, "PNG")
        with open(folder + b"/\xe9.png", "wb") as file:  # noqa: PTH123
            file.write(content.getvalue())
    splits = open_splits(tmp_path / "raw")
    pack(splits, tmp_path / "pack")
    packed = open_pack(tmp_path / "pack")["train"]
    assert (packed.class_names, packed.paths) == (splits["train"].class_names, splits["train"].paths)
    assert verify_pack(tmp_path / "pack", sources=splits) == 2


def test_a_pipe_in_the_place_of_a_file_is_not_opened(splits: dict[str, LongTailedDataset], tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack(splits, out)
    for name in ("train.tar", "train.npz"):
        kept = (out / name).read_bytes()
        (out / name).unlink()
        os.mkfifo(out / name)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            open_pack(out)
        (out / name).unlink()
        (out / name).write_bytes(kept)
