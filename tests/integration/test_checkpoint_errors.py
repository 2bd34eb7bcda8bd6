"""Checkpoints that cannot be read, matched or trusted: one line that says why and what to do, and nothing written."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FLAGS = ("--image-size", "32", "--eval-resize", "32", "--mean", *["0.5"] * 3, "--std", *["0.25"] * 3, "--tau", "0.7")
NAMES = [f"colour {label}" for label in range(10)]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A checkpoint made of good tensors, the flags it comes with, and what must be said about it."""

    make: Callable[[Tensors], Path]
    parts: tuple[str, ...]
    flags: tuple[str, ...] = FLAGS


def good(tensors: Tensors) -> Path:
    torch.save(tensors, "net.pth")
    return Path("net.pth")


def changed(**changes: Tensor | None) -> Callable[[Tensors], Path]:
    """Make a checkpoint with other tensors; None takes one away, two underscores stand for a dot."""

    def make(tensors: Tensors) -> Path:
        replacements = {name.replace("__", "."): value for name, value in changes.items()}
        return good({name: value for name, value in (tensors | replacements).items() if value is not None})

    return make


def cut(file: str) -> Callable[[Tensors], Path]:
    """Make a file that ends half-way."""

    def make(tensors: Tensors) -> Path:
        path = Path(file)
        if path.suffix == ".pth":
            torch.save(tensors, path)
        else:
            save_file(tensors, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return make


def folder(
    config: dict[str, Any] | None = None, processor: dict[str, Any] | None = None, without: str = ""
) -> Callable[[Tensors], Path]:
    """Make a folder of two shards."""

    def make(tensors: Tensors) -> Path:
        path = Path("hub")
        path.mkdir()
        names = list(tensors)
        places = {name: f"model-{1 + place % 2}.safetensors" for place, name in enumerate(names)}
        for file in set(places.values()):
            save_file({name: tensors[name] for name in names if places[name] == file}, path / file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        (path / "config.json").write_text(json.dumps(config or {}))
        if processor:
            (path / "preprocessor_config.json").write_text(json.dumps(processor))
        if without:
            (path / without).unlink()
        return path

    return make


def listed(*names: str) -> Callable[[Tensors], Path]:
    """Make a good checkpoint and a list of class names beside it."""

    def make(tensors: Tensors) -> Path:
        Path("names.txt").write_text("\n".join(names))
        return good(tensors)

    return make


def not_a_number(tensors: Tensors) -> Path:
    tensors["layer1.0.conv1.weight"] = tensors["layer1.0.conv1.weight"].clone()
    tensors["layer1.0.conv1.weight"].view(-1)[7] = torch.nan
    save_file(tensors, "net.safetensors")
    return Path("net.safetensors")


def beside(content: bytes) -> Callable[[Tensors], Path]:
    """Make a good checkpoint, and a file of somebody's where the output is to go."""

    def make(tensors: Tensors) -> Path:
        Path("there.pth").write_bytes(content)
        return good(tensors)

    return make


def unknown_network(tensors: Tensors) -> Path:
    torch.save({"arch": "a net", "state_dict": tensors}, "net.pth")
    return Path("net.pth")


def no_weights(tensors: Tensors) -> Path:
    torch.save({"epoch": 3, "metrics": {"top1": 0.5}}, "net.pth")
    return Path("net.pth")


def half(tensors: Tensors) -> Path:
    """Make a checkpoint whose head is so small that a large tau makes it larger than its dtype holds."""
    small = tensors | {name: tensors[name] / 1000 for name in ("fc.weight", "fc.bias")}
    return good({name: value.half() if value.is_floating_point() else value for name, value in small.items()})


MATRIX, VECTOR = torch.ones(10, 512), torch.ones(10)
CASES = {
    "two heads": Case(
        changed(aux__weight=MATRIX, aux__bias=VECTOR),
        ("net.pth: ", "fc, aux", "--head"),
    ),
    "no such head": Case(good, ("--head: got nix", "fc"), (*FLAGS, "--head", "nix")),
    "no matrix": Case(good, ("--head: got conv1", "[64, 3, 7, 7]", "fc"), (*FLAGS, "--head", "conv1")),
    "no head": Case(changed(fc__weight=None, fc__bias=None), ("net.pth: ", "linear layer", "--head")),
    "width": Case(
        changed(fc__weight=torch.ones(10, 300)), ("net.pth: ", "300 features", "resnet10", "512", "--backbone")
    ),
    "number of classes": Case(
        changed(fc__weight=torch.ones(7, 512), fc__bias=torch.ones(7)),
        ("net.pth: ", "7 classes", "10", "--data-root"),
    ),
    "quantized": Case(changed(fc__weight=MATRIX.to(torch.int8)), ("net.pth: ", "fc", "torch.int8")),
    "another backbone": Case(
        good,
        ("net.pth: ", "resnet50", "205 missing (layer1.0.conv3.weight", "--backbone resnet10"),
        (*FLAGS, "--backbone", "resnet50"),
    ),
    "no such backbone": Case(good, ("--backbone: got 'resnet11'", "resnet10"), (*FLAGS, "--backbone", "resnet11")),
    "more than a backbone": Case(
        changed(squeeze__weight=torch.ones(4, 4, 1, 1)), ("1 not expected (squeeze.weight)", "--head")
    ),
    "named otherwise": Case(unknown_network, ("'a net'", "--backbone resnet10")),
    "built otherwise": Case(
        folder({"architecture": "resnet50", "model_args": {"output_stride": 8}}), ("model_args", "rebalance_model")
    ),
    "no weights": Case(no_weights, ("net.pth: ", "epoch, metrics")),
    "cut short": Case(cut("net.pth"), ("net.pth", "cannot be read")),
    "cut short, safetensors": Case(cut("net.safetensors"), ("net.safetensors", "cannot be read")),
    "not finite": Case(not_a_number, ("net.safetensors: ", "layer1.0.conv1.weight", "not finite")),
    "a shard lacks": Case(folder(without="model-2.safetensors"), ("hub: ", "model-2.safetensors", "1 of the 2 shards")),
    "an index lacks": Case(
        folder(without="model.safetensors.index.json"), ("hub: ", "model-1.safetensors, model-2.safetensors")
    ),
    "names of its own": Case(
        folder({"id2label": {str(place): name for place, name in enumerate([*NAMES[1:], "teapot"])}}),
        ("config.json", "lacks colour 0", "no teapot", "--classes"),
    ),
    "another interpolation": Case(
        folder(processor={"size": 32, "resample": 1}), ("--interpolation", "lanczos", "--force"), ("--tau", "0.7")
    ),
    "odd preprocessing": Case(folder(processor={"size": "small"}), ("preprocessor_config.json", "--image-size")),
    "a class lacks": Case(
        listed(*NAMES[:9]), ("names.txt", "9 names", "lacks colour 9"), (*FLAGS, "--classes", "names.txt")
    ),
    "a class twice": Case(
        listed(*NAMES, NAMES[3]), ("names.txt", "colour 3 twice"), (*FLAGS, "--classes", "names.txt")
    ),
    "an unknown class": Case(
        listed(*NAMES[:9], "teapot"),
        ("names.txt", "lacks colour 9", "no teapot"),
        (*FLAGS, "--classes", "names.txt"),
    ),
    "no class list": Case(good, ("--classes: ", "none.txt"), (*FLAGS, "--classes", "none.txt")),
    "over the input": Case(good, ("--out: ", "net.pth", "the input"), (*FLAGS, "--out", "net.pth")),
    "over the input, roundabout": Case(good, ("--out: ", "the input"), (*FLAGS, "--out", "sub/../net.pth")),
    "over somebody's file": Case(beside(b"mine"), ("--out: ", "there.pth"), (*FLAGS, "--out", "there.pth")),
    "another format": Case(good, ("--out: ", "net.tau.safetensors", ".pth"), (*FLAGS, "--out", "net.tau.safetensors")),
    "one output for all": Case(good, ("--out", "--method all"), (*FLAGS, "--out", "new.pth", "--method", "all")),
    "more than its dtype holds": Case(
        half, ("fc.weight", "torch.float16", "float32"), (*FLAGS, "--tau", "6", "--no-temperature")
    ),
    "too small a resize": Case(good, ("--eval-resize: got 16",), ("--eval-resize", "16", "--image-size", "32")),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(name: str, fitted: Any, workshop: Path, refusal: Callable[..., str]) -> None:
    case = CASES[name]
    source = case.make(dict(fitted("resnet10").tensors))
    message = refusal(source, *case.flags)
    for part in case.parts:
        assert part in message


def test_wrong_preprocessing_is_named_and_can_be_insisted_on(
    fitted: Any,
    workshop: Path,
    refusal: Callable[..., str],
    rebalance_checkpoint: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = good(dict(fitted("resnet10").tensors))
    absurd = ("--image-size", "32", "--eval-resize", "32", "--mean", *["1"] * 3, "--std", *["0.02"] * 3, "--tau", "0.7")
    message = refusal(source, *absurd)
    for part in ("net.pth: ", "preprocessing", "--image-size", "--eval-resize", "--mean", "--std", "--force"):
        assert part in message
    rebalance_checkpoint(source, *absurd, "--force")
    out = capsys.readouterr().out
    assert "preprocessing is wrong" in out
    assert Path("net.tau.pth").is_file()


def test_another_interpolation_is_replaced_when_insisted_on(
    fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    form = {"size": 32, "resample": 1, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    source = folder(processor=form)(dict(fitted("resnet10").tensors))
    rebalance_checkpoint(source, "--tau", "0.7", "--force")
    assert re.search("lanczos.*bilinear", capsys.readouterr().out)
    assert Path("hub.tau/model.safetensors.index.json").is_file()


def test_an_output_is_written_anew_but_never_over_changes(
    fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None], refusal: Callable[..., str]
) -> None:
    source = good(dict(fitted("resnet10").tensors))
    rebalance_checkpoint(source, *FLAGS)
    first = Path("net.tau.pth").read_bytes()
    rebalance_checkpoint(source, *FLAGS)
    assert Path("net.tau.pth").read_bytes() == first
    with Path("net.tau.pth").open("ab") as file:
        file.write(b"mine")
    assert re.match(r"fastlt: .*net\.tau\.pth\b", refusal(source, *FLAGS))


def test_a_bias_that_is_added_stands_in_the_index_and_other_formats_stay_behind(
    fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = dict(fitted("resnet10").tensors)
    mean = fitted("resnet10").features.mean(0)
    tensors["fc.weight"] = tensors["fc.weight"] - tensors["fc.weight"].mean(0)
    shifts = tensors["fc.weight"] @ mean  # most of what the bias made up for
    tensors["fc.weight"] = tensors["fc.weight"] - shifts[:, None] * mean / mean.square().sum()
    del tensors["fc.bias"]
    source = folder(processor={"size": 32, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})(tensors)
    for stale in ("pytorch_model.bin", "model.onnx", "README.md"):
        (source / stale).write_bytes(b"before")
    rebalance_checkpoint(source, "--method", "logit_adjustment", "--strength", "1", "--no-temperature")
    message = capsys.readouterr().out
    assert "fc.bias added" in message
    assert "model.onnx, pytorch_model.bin" in message
    new = Path("hub.logit_adjustment")
    assert sorted(file.name for file in new.iterdir()) == sorted(
        file.name for file in source.iterdir() if file.name not in ("pytorch_model.bin", "model.onnx")
    )
    places = json.loads((new / "model.safetensors.index.json").read_text())["weight_map"]
    assert places["fc.bias"] == places["fc.weight"]
    bias = load_file(new / places["fc.bias"])["fc.bias"]
    assert (bias[1:] > bias[:-1]).all()  # rarer classes gain more


def test_a_folder_may_be_the_working_folder(
    fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    folder(processor=form)(dict(fitted("resnet10").tensors))
    monkeypatch.chdir("hub")
    rebalance_checkpoint(".", "--tau", "0.7")
    assert (workshop / "hub.tau" / "model-1.safetensors").is_file()


def test_a_loss_that_lacks_the_prefix_of_the_network_stays(
    fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None]
) -> None:
    tensors = {f"model.{name}": value for name, value in fitted("resnet10").tensors.items()}
    tensors |= {"criterion.weight": torch.ones(10)}
    torch.save({"state_dict": tensors, "hyper_parameters": {"lr": 0.1}}, "net.ckpt")
    rebalance_checkpoint("net.ckpt", *FLAGS, "--head", "fc")
    new = torch.load("net.tau.ckpt")["state_dict"]
    assert list(new) == list(tensors)
    assert {name for name in new if not torch.equal(new[name], tensors[name])} == {"model.fc.weight", "model.fc.bias"}


def test_a_network_that_was_trained_further_comes_back_whole(
    fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None]
) -> None:
    tensors = dict(fitted("resnet10").tensors)
    source = folder(processor={"size": 32, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})(tensors)
    live = ("--features", "live", "--fine-tune", "all", "--epochs", "1", "--batch-size", "32")
    rebalance_checkpoint(source, "--method", "crt", *live)
    new = {key: value for file in Path("hub.crt").glob("*.safetensors") for key, value in load_file(file).items()}
    assert {name: value.dtype for name, value in new.items()} == {name: v.dtype for name, v in tensors.items()}
    assert not torch.equal(new["conv1.weight"], tensors["conv1.weight"])
    assert new["bn1.num_batches_tracked"] > tensors["bn1.num_batches_tracked"]


def test_a_head_beside_others_is_the_only_one_that_changes(
    fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None]
) -> None:
    tensors = dict(fitted("resnet10").tensors)
    tensors |= {"aux.weight": torch.ones(10, 512), "aux.bias": torch.ones(10)}
    rebalance_checkpoint(good(tensors), *FLAGS, "--head", "fc", "--method", "all", "--epochs", "1")
    methods = {path.name.split(".")[1] for path in Path().glob("net.*.pth")}
    assert methods == {"tau", "crt", "lws", "ncm", "logit_adjustment", "los", "max_norm", "cosine"}
    for method in methods:
        new = torch.load(f"net.{method}.pth")
        assert list(new) == list(tensors)
        different = {name for name in tensors if not torch.equal(tensors[name], new[name])}
        assert different
        assert different <= {"fc.weight", "fc.bias"}
        assert torch.isfinite(new["fc.weight"]).all()
