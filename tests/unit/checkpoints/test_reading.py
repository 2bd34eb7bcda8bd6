"""Checkpoints of any format: where their tensors are, under which names."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fastlt.checkpoints.formats.shards import read_shard
from fastlt.checkpoints.reading import TensorPlace, find_places, name_places, read_checkpoint, read_folder

HERE = Path("net.pth")


def numbers(*names: str) -> dict[str, Any]:
    return {name: torch.full((2,), float(place)) for place, name in enumerate(names)}


def test_prefixes_go_where_most_names_share_them() -> None:
    assert list(name_places([numbers("module._orig_mod.a", "module._orig_mod.b")])) == ["a", "b"]
    assert list(name_places([numbers("module.a", "module.b", "loss.w")])) == ["a", "b", "loss.w"]
    assert list(name_places([numbers("module.a", "b")])) == ["module.a", "b"]
    assert list(name_places([numbers("module.a", "module.b", "a")])) == [
        "module.a",
        "module.b",
        "a",
    ]  # else one is lost
    places = name_places([numbers("model.a") | {"epoch": 3}, numbers("b")])
    assert {name: place.key for name, place in places.items()} == {"a": "model.a", "b": "b"}


def test_the_average_comes_first_and_the_weights_before_what_stands_beside_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = {"best": torch.tensor(0.5), "state_dict": numbers("plain"), "model_ema": {"module": numbers("mean")}}
    with caplog.at_level("INFO"):
        assert list(find_places(HERE, content)) == ["mean"]
    assert "took the averaged weights in model_ema, not those in state_dict" in caplog.text
    released = {"feat_model": numbers("module.a"), "classifier": numbers("module.fc.weight")}
    assert list(find_places(HERE, {"state_dict_best": released, "acc": 0.5})) == ["a", "fc.weight"]
    assert list(find_places(HERE, released)) == ["a", "fc.weight"]
    nothings: list[Any] = [{"model": {}}, {"feat_model": {}}, {"epoch": 3}, [torch.zeros(1)]]
    for nothing in nothings:
        with pytest.raises(ValueError, match=r"^net\.pth: .*\b(dict of (model|feat_model|epoch)|list)\b"):
            find_places(HERE, nothing)


def test_a_folder_holds_one_checkpoint_whole_or_in_shards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{tmp_path}: .*config\.json.*model\.safetensors"):
        read_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"one\.safetensors: "):
        read_shard(tmp_path / "one.safetensors")
    save_file(numbers("a"), tmp_path / "one.safetensors")
    assert list(read_folder(tmp_path).places) == ["a"]
    save_file(numbers("b"), tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=rf"^{tmp_path}: .*one\.safetensors, two\.safetensors"):
        read_folder(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"b": "two.safetensors"}}))
    assert list(read_folder(tmp_path).places) == ["b"]
    index.write_text(json.dumps({"weight_map": {"b": "two.safetensors", "c": "three.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}: .*three\.safetensors.*\b1 of .*\b2 shards"):
        read_folder(tmp_path)
    for places in ({"b": "../two.safetensors", "c": "one.safetensors"}, {}, ["two.safetensors"]):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(ValueError, match=r"index\.json: .*weight_map"):
            read_folder(tmp_path)
    save_file(numbers("c"), tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text('{"size": 8}')
    assert list(read_checkpoint(tmp_path).places) == ["c"]
    assert read_folder(tmp_path).settings == {"preprocessor_config": {"size": 8}}


def test_a_file_says_which_network_it_is_of(tmp_path: Path) -> None:
    torch.save({"arch": "resnet50", "state_dict": numbers("a")}, tmp_path / "net.pth")
    found = read_checkpoint(tmp_path / "net.pth")
    assert found.settings == {"config": {"architecture": "resnet50"}}
    assert found.zipped
    assert found.places == {"a": TensorPlace(found.content["state_dict"], "a")}
    save_file(numbers("a"), tmp_path / "net.safetensors")
    assert read_checkpoint(tmp_path / "net.safetensors").content is None
    torch.save(numbers("a"), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert not read_checkpoint(tmp_path / "old.pth").zipped


BIG = b'{"weight_map": {"a": "' + b"x" * (9 << 20) + b'"}}'


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        Path.mkdir,
        lambda path: path.write_bytes(b"[" * 200_000),
        lambda path: path.write_bytes(b"[]"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_bytes(BIG),
        lambda path: path.write_bytes(b'{"weight_map": {"a": NaN}, "x": [' + b"[" * 200_000),
    ],
    ids=["pipe", "folder", "deep", "list", "no text", "long", "deep and NaN"],
)
def test_what_comes_with_weights_is_checked(name: str, make: Callable[[Path], object], tmp_path: Path) -> None:
    save_file(numbers("a"), tmp_path / ("other.safetensors" if "index" in name else "model.safetensors"))
    make(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^{tmp_path / name}: got [^\n]*$"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("index", [{"weight_map": {"a": 3}}, {"weight_map": {"a": None}}, {"weight_map": 3}])
def test_an_index_of_another_form_names_the_place(index: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json: got .*`\$\.weight_map"):
        read_checkpoint(tmp_path)


def test_settings_may_hold_what_json_has_not(tmp_path: Path) -> None:
    save_file(numbers("a"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"layer_norm_eps": Infinity, "model_type": "x"}')
    assert read_checkpoint(tmp_path).settings["config"]["model_type"] == "x"


def test_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: got a pipe"):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors: got a pipe"):
        read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.pth: "):
        read_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize("form", [argparse.Namespace, dict])
def test_the_arguments_of_a_training_script_are_read_as_plain_values(form: type, tmp_path: Path) -> None:
    plain = {"model": "resnet18", "crop_pct": None, "img_size": 160, "mean": [0.5], "gp": "fast", "model_kwargs": {}}
    torch.save({"state_dict": numbers("a"), "args": form(**plain)}, tmp_path / "net.pth")
    settings = read_checkpoint(tmp_path / "net.pth").settings
    assert settings["args"] == plain
    assert settings["config"] == {"architecture": "resnet18", "global_pool": "avg", "model_args": {}}


def test_arguments_of_other_scripts_name_no_network(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": numbers("a"), "args": {"model": "mine", "model_kwargs": {"depth": 3}}}, tmp_path / "a.pth"
    )
    assert "config" not in read_checkpoint(tmp_path / "a.pth").settings
    torch.save({"state_dict": numbers("a"), "args": ["--model", "mine"], "arch": 3}, tmp_path / "b.pth")
    assert read_checkpoint(tmp_path / "b.pth").settings == {}
