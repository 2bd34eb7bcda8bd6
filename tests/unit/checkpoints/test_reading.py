"""The parts that read a checkpoint of any format, match its names with ours, and write it back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastlt.checkpoints.names import find_head, match, unmatched
from fastlt.checkpoints.reading import Checkpoint, TensorPlace, find_places, name_places, read_checkpoint, read_folder
from fastlt.checkpoints.recognition import guess_backbone, resembling, torchvision_name
from fastlt.checkpoints.shards import read_shard, write_shard
from fastlt.checkpoints.writing import default_output, index_with, key_of, write_pickled
from fastlt.models import LinearHead, create_model
from fastlt.rebalancing.module import batches_of, logits_of, replace_head

HERE = Path("net.pth")


def numbers(*names: str) -> dict[str, Any]:
    return {name: torch.full((2,), float(place)) for place, name in enumerate(names)}


def resnet(name: str = "resnet8", num_classes: int = 2) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(create_model(name, num_classes).state_dict())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("resnet.embedder.embedder.convolution.weight", "conv1.weight"),
        ("resnet.embedder.embedder.normalization.running_mean", "bn1.running_mean"),
        ("resnet.encoder.stages.2.layers.5.layer.0.convolution.weight", "layer3.5.conv1.weight"),
        ("resnet.encoder.stages.0.layers.1.layer.2.normalization.bias", "layer1.1.bn3.bias"),
        ("resnet.encoder.stages.3.layers.0.shortcut.convolution.weight", "layer4.0.downsample.0.weight"),
        ("resnet.encoder.stages.1.layers.0.shortcut.normalization.weight", "layer2.0.downsample.1.weight"),
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
    ],
)
def test_names_of_transformers_are_torchvisions(theirs: str, ours: str) -> None:
    assert torchvision_name(theirs) == ours


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


def test_every_tensor_finds_its_place_and_what_has_none_is_named() -> None:
    tensors = resnet()
    plain = match(HERE, tensors, "resnet8", None, 2)
    assert plain.head == "fc"
    assert plain.names == {name: name for name in tensors}
    assert plain.absent == ()
    counters = {name: value for name, value in tensors.items() if name.endswith("num_batches_tracked")}
    lean = {name: value for name, value in tensors.items() if name not in counters and name != "fc.bias"}
    assert set(match(HERE, lean, "resnet8", None, 2).absent) == {*counters, "fc.bias"}
    renamed = {name.replace("fc.", "last."): value for name, value in tensors.items()}
    found = match(HERE, renamed, "resnet8", None, 2)
    assert (found.head, found.names["fc.weight"], found.names["fc.bias"]) == ("last", "last.weight", "last.bias")
    stem = "resnet.embedder.embedder.convolution.weight"
    theirs = {stem if name == "conv1.weight" else name: value for name, value in tensors.items()}
    assert match(HERE, theirs, "resnet8", None, 2).names["conv1.weight"] == stem


@pytest.mark.parametrize(
    ("change", "head", "pattern"),
    [
        ({"bn1.weight": None}, None, r"^net\.pth: .*resnet8.*\b1 missing \(bn1\.weight\).*--backbone"),
        ({"bn1.weight": torch.zeros(3)}, None, r"^net\.pth: .*\(bn1\.weight .*\[3\].*\[32\]\)"),
        (resnet("resnet10"), None, r"^net\.pth: .*--backbone resnet10\b"),
        ({"aux": torch.zeros(3)}, None, r"^net\.pth: .*\b1 not expected \(aux\).*--head"),
        ({"aux.weight": torch.zeros(2, 3)}, None, r"^net\.pth: .*fc, aux.*--head"),
        ({"fc.weight": None, "fc.bias": None}, None, r"^net\.pth: .*linear layer.*--head"),
        (
            {"fc.weight": torch.zeros(2, 9)},
            None,
            r"^net\.pth: .*\bfc .*\b9 .*resnet8 .*\b128\b.*--backbone.*--head",
        ),
        ({"fc.weight": torch.zeros(3, 128)}, None, r"^net\.pth: .*\bfc .*\b3 classes.*\b2\b.*--data-root.*--head"),
        (
            {"fc.weight": torch.zeros(2, 128, dtype=torch.int8)},
            None,
            r"^net\.pth: .*\bfc .*torch\.int8\b",
        ),
        ({}, "nothing", r"^--head: .*\bnothing\b.*\bfc\b"),
        ({}, "conv1", r"^--head: .*\bconv1\b.*\[32, 3, 3, 3\].*\bfc\b"),
    ],
)
def test_what_does_not_match_is_refused(
    change: dict[str, Tensor | None], head: str | None, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a long list goes
    whole = {} if len(change) > 2 else resnet()
    tensors = {name: value for name, value in {**whole, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=pattern) as caught:
        match(HERE, tensors, "resnet8", head, 2)
    assert "--image-size" not in str(caught.value)


def test_a_named_head_leaves_the_others_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    tensors = resnet() | {"aux.weight": torch.zeros(5, 3), "aux.bias": torch.zeros(5)}
    with caplog.at_level("INFO"):
        assert match(HERE, tensors, "resnet8", "fc", 2).head == "fc"
    assert "2 tensors are no part of resnet8 and stay as they are: aux.weight, aux.bias" in caplog.text
    assert "aux.weight" not in match(HERE, tensors, "resnet8", "fc", 2).names.values()


@pytest.mark.parametrize(("count", "named", "file"), [(10, 10, False), (11, 3, True)])
def test_a_long_list_goes_into_a_file(
    count: int, named: int, file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = unmatched(HERE, "resnet8", missing=[f"k{place:02}" for place in range(count)], remedy="--backbone")
    assert (f"k{named - 1:02}" in text, f"k{named:02}" in text) == (True, False)
    assert ((tmp_path / "net.unmapped.txt").is_file(), f"and {count - named} more" in text) == (file, file)


def test_the_network_is_guessed_by_what_says_it_best() -> None:
    for name in ("resnet8", "resnet10", "resnext50_32x4d"):
        assert resembling(resnet(name)) == name
        assert guess_backbone(HERE, resnet(name), {}) == name
    deeper = resnet("resnet10") | {"layer4.9.conv1.weight": torch.zeros(1)}
    assert resembling(deeper) is None
    assert resembling(numbers("a")) is None
    config: dict[str, Any] = {"architecture": "timm:resnet50.a1_in1k", "model_args": {"drop_rate": 0.1, "in_chans": 3}}
    assert guess_backbone(HERE, {}, {"config": config}) == "resnet50"
    with pytest.raises(ValueError, match=r"^net\.pth: .*timm:resnet50\.a1_in1k.*\{'in_chans': 4\}"):
        guess_backbone(HERE, {}, {"config": config | {"model_args": {"in_chans": 4}}})
    transformers = {"model_type": "resnet", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]}
    assert guess_backbone(HERE, {}, {"config": transformers}) == "resnet50"
    basic = {"model_type": "resnet", "layer_type": "basic", "depths": [1] * 4, "hidden_sizes": [64, 128, 256, 512]}
    assert guess_backbone(HERE, {}, {"config": basic}) == "resnet10"
    for unknown, pattern in (
        ({}, r"^--backbone: .*net\.pth.*resnet8, .*timm:NAME"),
        ({"config": {"architecture": "no_such_net"}}, r"^--backbone\b.*timm:no_such_net\b.*timm"),
    ):
        with pytest.raises(ValueError, match=pattern):
            guess_backbone(HERE, numbers("a"), unknown)
    with pytest.raises(ValueError, match=r"^--backbone: .*net\.pth.*'no_such_net'.*--backbone resnet8\b"):
        guess_backbone(HERE, resnet(), {"config": {"architecture": "no_such_net"}})
    for odd in ({"downsample_in_bottleneck": True}, {"downsample_in_first_stage": True}, {"embedding_size": 32},
                {"hidden_act": "gelu"}, {"depths": [3, 4, 6, 4]}):  # fmt: skip
        with pytest.raises(ValueError, match=r"^net\.pth: .*config\.json.*rebalance_model"):
            guess_backbone(HERE, {}, {"config": transformers | odd})


def test_matrices_inside_the_backbone_are_no_last_layer() -> None:
    with pytest.raises(ValueError, match=r"^net\.pth: .*\(inner\).*--head"):
        find_head(HERE, {"inner.weight": torch.zeros(2, 2)}, [])


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


def test_logits_are_found_in_whatever_a_network_returns() -> None:
    logits = torch.zeros(2, 3)
    for output in (logits, {"logits": logits}, (logits, "more"), [logits], type("Output", (), {"logits": logits})()):
        assert logits_of(output) is logits
    for output in ({}, (), {"logits": 3}, "text", None):
        assert logits_of(output) is None


def test_batches_come_from_loaders_lists_and_data_sets() -> None:
    images, labels = torch.arange(140.0).view(70, 2), torch.arange(70)
    dataset = torch.utils.data.TensorDataset(images, labels)
    assert [len(y) for _, y in batches_of(dataset, "train")] == [64, 6]
    loader = torch.utils.data.DataLoader(dataset, batch_size=40)
    for data in (loader, iter(loader)):
        assert [len(y) for _, y in batches_of(data, "train")] == [40, 30]
    batches = [(images[:3], labels[:3]), (images[3:4], labels[3:4], "more")]
    assert [y.tolist() for _, y in batches_of(batches, "train")] == [[0, 1, 2], [3]]
    for wrong, pattern in (
        (3, r"^train: got an? int\b"),
        ([images[0]], r"^train: .*\bTensor\b"),
        ([(images,)], r"^train: .*\btuple\b"),
        ([(images, labels.float())], r"^train: .*torch\.float32"),
        ([(images, labels[:, None])], r"^train: .*\[70, 1\]"),
    ):
        with pytest.raises(ValueError, match=pattern):
            list(batches_of(wrong, "train"))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_takes_a_heads_numbers_in_its_own_dtype(frozen: bool) -> None:
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0, 6.0])
    layer = nn.Linear(2, 2).bfloat16().requires_grad_(not frozen)
    replace_head(layer, LinearHead(weight, bias), "fc")
    assert (layer.weight.tolist(), layer.bias.tolist()) == (weight.tolist(), bias.tolist())
    assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (not frozen, not frozen)
    replace_head(layer, LinearHead(weight), "fc")
    assert layer.bias.tolist() == [0, 0]  # a bias that it need not have
    bare = nn.Linear(2, 2, bias=False).requires_grad_(not frozen)
    replace_head(bare, LinearHead(weight, torch.zeros(2)), "fc")
    assert bare.bias is None
    replace_head(bare, LinearHead(weight, bias), "fc")
    assert bare.bias.tolist() == bias.tolist()
    assert bare.bias.requires_grad is not frozen
