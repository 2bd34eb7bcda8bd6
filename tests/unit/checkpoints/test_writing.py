"""Checkpoints that are written back with another last layer."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastlt.checkpoints import native
from fastlt.checkpoints.formats.shards import read_shard, write_shard
from fastlt.checkpoints.import_run import ImportedCheckpoint
from fastlt.checkpoints.names import NameMap
from fastlt.checkpoints.reading import Checkpoint, find_places, read_checkpoint
from fastlt.checkpoints.writing import (
    WRITTEN,
    check_output,
    default_output,
    digest,
    index_with,
    key_of,
    write_back,
    write_pickled,
)
from fastlt.files import settle, write_json
from fastlt.files.writing import contents
from fastlt.run import Run

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


def test_a_shard_of_ours_gets_new_checksums(tmp_path: Path) -> None:
    native.save(tmp_path / "old.safetensors", {"fc.weight": torch.ones(2, 3), "a": torch.arange(5)}, {"method": "tau"})
    shard = read_shard(tmp_path / "old.safetensors")
    write_shard(shard, {}, tmp_path / "same.safetensors")
    assert (tmp_path / "same.safetensors").read_bytes() == (tmp_path / "old.safetensors").read_bytes()
    write_shard(shard, {"fc.weight": torch.zeros(2, 3), "fc.bias": torch.ones(2)}, tmp_path / "new.safetensors")
    tensors, metadata = native.load(tmp_path / "new.safetensors")
    assert metadata == {"method": "tau"}
    assert tensors["fc.weight"].eq(0).all()
    content = (tmp_path / "new.safetensors").read_bytes()
    (tmp_path / "new.safetensors").write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match="other values"):
        read_shard(tmp_path / "new.safetensors")


def imported(source: Path) -> tuple[ImportedCheckpoint, Path]:
    """Return a checkpoint of a head alone, imported by hand, and its rebalanced classifier."""
    run = Run(Path("run"))
    before = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}
    native.save(run.checkpoint("best"), before)
    rebalanced = Path("rebalanced.safetensors")
    native.save(rebalanced, before | {"fc.weight": torch.full((2, 3), 5.0)})
    if source.suffix == ".pth":
        torch.save(before, source)
    elif source.suffix:
        save_file(before, source)
    else:
        source.mkdir()
        save_file(before, source / "model.safetensors")
        (source / "config.json").write_text("{}")
        (source / "notes.txt").write_text("notes")
    names = NameMap(backbone="none", head="fc", names={name: name for name in before})
    checkpoint = read_checkpoint(source)
    return ImportedCheckpoint(checkpoint=checkpoint, run=run, names=names, order=(0, 1)), rebalanced


def head_of(out: Path) -> torch.Tensor:
    return read_checkpoint(out).tensors["fc.weight"]


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net"])
def test_a_killed_write_leaves_the_old_output_or_the_new_and_the_next_goes_on(
    name: str, killed_at: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, rebalanced = imported(Path(name))
    out = default_output(Path(name), "tau")
    write_back(source, rebalanced, out)
    native.save(rebalanced, {"fc.weight": torch.full((2, 3), 7.0), "fc.bias": torch.ones(2)})
    endings = []
    for call in range(1, 9):
        endings.append(killed_at(call, lambda: write_back(source, rebalanced, out)))
        settle(out)
        assert head_of(out)[0, 0] in (5.0, 7.0)
        check_output(Path(name), out)
        assert contents(tmp_path / "runs" / "adopted") == ["written.json"]
        if endings[-1] == 0:
            break
    assert endings == [9] * (3 if name == "net" else 2) + [0]
    assert head_of(out)[0, 0] == 7.0
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert left == []
    if name == "net":
        assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors", "notes.txt"]


def test_what_somebody_added_to_an_output_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, rebalanced = imported(Path("net"))
    out = Path("net.tau")
    write_back(source, rebalanced, out)
    write_back(source, rebalanced, out)
    for add in (lambda: (out / "mine").mkdir(), lambda: (out / "config.json").write_text("{ }")):
        add()
        with pytest.raises(ValueError, match=r"^--out: got net\.tau,"):
            write_back(source, rebalanced, out)
        assert (out / "mine").is_dir()


def test_a_record_of_outputs_is_read_in_its_old_form_and_its_damage_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, rebalanced = imported(Path("net.pth"))
    out = Path("net.tau.pth")
    write_back(source, rebalanced, out)
    write_json(WRITTEN, {str(out.resolve()): digest(out)})
    write_back(source, rebalanced, out)
    for damaged in ("", "[]", '{"a": 3}', "[" * 100_000):
        WRITTEN.write_text(damaged)
        with pytest.raises(ValueError, match=rf"^{WRITTEN}: got [^\n]*; delete it"):
            write_back(source, rebalanced, out)


def test_two_processes_record_both_of_their_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, rebalanced = imported(Path("net.pth"))
    outs = [Path(f"net.{index}.pth") for index in range(8)]
    children = []
    for out in outs:
        child = os.fork()
        if child == 0:
            try:
                write_back(source, rebalanced, out)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
    for out in outs:
        check_output(Path("net.pth"), out)
