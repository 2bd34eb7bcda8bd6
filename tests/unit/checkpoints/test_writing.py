"""Checkpoints that are written back with another last layer."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastlt.checkpoints.reading import Checkpoint, find_places
from fastlt.checkpoints.shards import read_shard, write_shard
from fastlt.checkpoints.writing import default_output, index_with, key_of, write_pickled

HERE = Path("net.pth")


def test_a_shard_keeps_its_order_its_bytes_and_its_notes(tmp_path: Path) -> None:
    old = {
        "z": torch.arange(3.0),
        "fc.weight": torch.ones(2, 3).half(),
        "a": torch.arange(5),
        "z.weight": torch.ones(1).half(),
    }
    save_file(old, tmp_path / "old.safetensors", metadata={"format": "pt"})
    shard = read_shard(tmp_path / "old.safetensors")
    write_shard(shard, {}, tmp_path / "same.safetensors")
    assert (tmp_path / "same.safetensors").read_bytes() == (tmp_path / "old.safetensors").read_bytes()
    changed = {"fc.weight": torch.full((2, 3), 2.0).half(), "fc.bias": torch.tensor([3.0, 4.0]).half()}
    write_shard(shard, changed, tmp_path / "new.safetensors")
    new = read_shard(tmp_path / "new.safetensors")
    names = list(shard.header)
    names.insert(names.index("fc.weight") + 1, "fc.bias")
    assert list(new.header) == names
    assert new.header["__metadata__"] == {"format": "pt"}
    assert new.header["fc.bias"]["data_offsets"] == [len(shard.data), len(shard.data) + 4]
    assert {name: new.header[name] for name in old} == {name: shard.header[name] for name in old}
    for name, value in (old | changed).items():
        assert load_file(tmp_path / "new.safetensors")[name].equal(value)
    assert int.from_bytes((tmp_path / "new.safetensors").read_bytes()[:8], "little") % 8 == 0


@pytest.mark.parametrize(
    ("path", "expected"),
    [("net.pth", "net.tau.pth"), ("a.b.pth.tar", "a.b.tau.pth.tar"), ("x/net.safetensors", "x/net.tau.safetensors")],
)
def test_an_output_stands_beside_its_input(path: str, expected: str) -> None:
    assert default_output(Path(path), "tau") == Path(expected)


def test_a_folders_output_is_a_folder_beside_it(tmp_path: Path) -> None:
    assert default_output(tmp_path, "tau") == tmp_path.with_name(f"{tmp_path.name}.tau")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickled_file_keeps_its_order_and_the_input_its_numbers(wrapped: bool, tmp_path: Path) -> None:
    inner = {"module.a": torch.zeros(1), "module.fc.weight": torch.ones(2, 3), "module.z": torch.zeros(2)}
    content = {"epoch": 3, "state_dict": inner} if wrapped else inner
    source = Checkpoint(path=tmp_path / "in.pth", places=find_places(HERE, content), content=content)
    assert key_of(source, "fc.bias") == "module.fc.bias"
    write_pickled(source, {"fc.weight": torch.full((2, 3), 2.0), "fc.bias": torch.tensor([3.0, 4.0])}, tmp_path / "out")
    written = torch.load(tmp_path / "out", weights_only=True)
    state = written["state_dict"] if wrapped else written
    assert list(state) == ["module.a", "module.fc.weight", "module.fc.bias", "module.z"]
    assert state["module.fc.weight"].eq(2).all()
    assert state["module.fc.bias"].tolist() == [3, 4]
    assert list(inner) == ["module.a", "module.fc.weight", "module.z"]
    assert inner["module.fc.weight"].eq(1).all()


def test_an_index_counts_what_came_new(tmp_path: Path) -> None:
    (tmp_path / "index").write_text(json.dumps({"metadata": {"total_size": 100}, "weight_map": {"a": "x"}}))
    content = index_with(tmp_path / "index", {"fc.bias": torch.zeros(3)}, {"fc.bias": "y", "a": "x"})
    assert content == {"metadata": {"total_size": 112}, "weight_map": {"a": "x", "fc.bias": "y"}}
