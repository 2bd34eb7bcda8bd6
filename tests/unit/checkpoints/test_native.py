"""Files that are whole or not there."""

import errno
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastlt.checkpoints import native
from fastlt.checkpoints.reading import read_checkpoint
from fastlt.files import read_json, replacing, write_json
from fastlt.models import create_model
from fastlt.run import Run
from fastlt.training.state import read_last

OneBitOff = Callable[[bytes, np.random.Generator], bytes]


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.arange(5),
        "c": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    native.save(path, tensors, {"step": 7, "best": None})
    loaded, metadata = native.load(path)
    content = path.read_bytes()
    for _ in range(8):
        native.save(path, tensors, {"step": 7, "best": None})
        assert path.read_bytes() == content
    assert metadata == {"step": 7, "best": None}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def fail_halfway() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail_halfway()
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


@pytest.mark.parametrize("keep", [0, 5, 8, 200, -10])
def test_a_half_written_checkpoint_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    native.save(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"^{path}: "):
        native.load(path)


def test_a_half_written_last_checkpoint_says_whether_the_best_is_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in ("best", "last"):
        native.save(run.checkpoint(name), {"a": torch.zeros(1)})
    content = run.checkpoint("last").read_bytes()
    for damaged in (content[:-1] + b"x", content[:-1]):
        run.checkpoint("last").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"last\.safetensors: .*best\.safetensors.*--init"):
            read_last(run)
    with pytest.raises(ValueError, match=r"last\.safetensors: .*best\.safetensors.*--init"):
        read_last(run)
    run.checkpoint("best").write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.safetensors: (?!.*best\.safetensors)"):
        read_last(run)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=rf"^{path}: .*safetensors file"):
        native.load(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: "):
        native.load(tmp_path / "none.safetensors")


def test_another_network_is_refused() -> None:
    state = create_model("resnet10", 5).state_dict()
    with pytest.raises(ValueError, match=r"^x: .*18 not expected .*layer4.*--backbone"):
        native.load_into(create_model("resnet8", 5), state, source=Path("x"))


def test_another_number_of_classes_is_refused() -> None:
    state = create_model("resnet8", 6).state_dict()
    with pytest.raises(ValueError, match=r"^x: .*fc\.weight .*\[6, 128\].*\[5, 128\]"):
        native.load_into(create_model("resnet8", 5), state, source=Path("x"))


def test_json_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"config\.json: .*JSON"):
        read_json(path)


TENSORS = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "b": torch.arange(5),
    "c": torch.tensor([True, False]),
    "d": torch.ones(2, 2).bfloat16(),
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(2.5),
}


def test_no_damage_returns_other_tensors(tmp_path: Path, one_bit_off: OneBitOff) -> None:
    path = tmp_path / "model.safetensors"
    native.save(path, TENSORS, {"step": 7, "loss": 0.5})
    content = path.read_bytes()
    draws = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        path.write_bytes(one_bit_off(content, draws))
        try:
            tensors, metadata = native.load(path)
        except ValueError:
            found += 1
        else:
            assert metadata == {"step": 7, "loss": 0.5}
            assert tensors.keys() == TENSORS.keys()
            for name, tensor in tensors.items():
                assert tensor.dtype == TENSORS[name].dtype
                assert torch.equal(tensor, TENSORS[name])
    assert found > 350


def test_the_damaged_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    native.save(path, TENSORS)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(struct.pack("<f", 11.0), struct.pack("<f", 11.5)))
    with pytest.raises(ValueError, match=rf"^{path}: got other values of a\.weight .*; use another checkpoint"):
        native.load(path)
    path.write_bytes(whole.replace(b'"dtype":"I64","shape":[5]', b'"dtype":"U64","shape":[5]'))
    with pytest.raises(ValueError, match=rf"^{path}: got other values of b "):
        native.load(path)
    with pytest.raises(ValueError, match=rf"^{path}: got other values of b "):
        read_checkpoint(path)


def test_checkpoints_of_earlier_versions_have_no_checksums(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"fastlt": '{"step": 7, "best": NaN}'})
    tensors, metadata = native.load(path)
    assert torch.equal(tensors["b"], TENSORS["b"])
    assert metadata["step"] == 7


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + json.dumps(ENTRY).encode() + b',"a":' + json.dumps(ENTRY | {"dtype": "I32"}).encode() + b"}",
        b'{"a":' + json.dumps(ENTRY).encode() + b',"a":' + json.dumps(ENTRY | {"shape": [1, 1]}).encode() + b"}",
        json.dumps({"a": ENTRY | {"shape": [2**62]}}).encode(),
        json.dumps({"a": ENTRY | {"data_offsets": [0, 2**62]}}).encode(),
        json.dumps({"a": ENTRY | {"shape": [float("nan")]}}).encode(),
        json.dumps({"a": ENTRY, "__metadata__": 3}).encode(),
        json.dumps({"a": ENTRY, "__metadata__": {"fastlt.crc32": "3"}}).encode(),
        json.dumps({"a": ENTRY, "__metadata__": {"fastlt.crc32": "[" * 100_000}}).encode(),
        json.dumps({"a": ENTRY, "__metadata__": {"fastlt": "[" * 100_000}}).encode(),
        json.dumps({"a": ENTRY, "__metadata__": {"fastlt": "3"}}).encode(),
        b"[" * 100_000,
        b"[]",
        b"3",
    ],
    ids=lambda header: repr(header[:40]),
)
def test_a_header_that_is_none_is_one_clear_line(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match=rf"^{path}: got [^\n]*$"):
        native.load(path)


@pytest.mark.parametrize("length", [9, 2**20, 2**40, 2**64 - 1])
def test_a_header_is_no_longer_than_its_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=rf"^{path}: got [^\n]*$"):
        native.load(path)


def test_empty_metadata_is_none(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = json.dumps({"a": ENTRY, "__metadata__": None}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert native.load(path)[1] == {}
