"""Checkpoints of every format go through `fastlt rebalance` and come back in their own, with another last layer."""

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fastlt.models import create_model

FLAGS = ["--image-size", "32", "--eval-resize", "32", "--mean", *["0.5"] * 3, "--std", *["0.25"] * 3]
NAMES = [f"colour {label}" for label in range(10)]
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]  # of the classes, where a checkpoint has its own
PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": 32},
    "crop_pct": 1.0,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
    "resample": 2,
}
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """How a checkpoint is written, where a user of the format finds the weights in it, and the flags it needs."""

    file: str
    backbone: str
    write: Callable[[Tensors, Path], None]
    read: Callable[[Path], Tensors]
    flags: tuple[str, ...] = tuple(FLAGS)
    order: tuple[int, ...] = tuple(range(10))


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def distributed(tensors: Tensors) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in tensors.items()}


def single(tensors: Tensors) -> dict[str, Tensor]:
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def write_plain(tensors: Tensors, path: Path) -> None:
    torch.save(OrderedDict(tensors), path)


def write_script(tensors: Tensors, path: Path) -> None:
    """Write what timm's training script writes, its average absent."""
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)
    content = {"arch": "resnet50", "epoch": 7, "state_dict": dict(tensors), "optimizer": optimizer.state_dict()}
    form = {"img_size": 32, "input_size": None, "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.25], "gp": "fast"}
    arguments = argparse.Namespace(lr=0.1, model="resnet50", interpolation="bilinear", model_kwargs={}, **form)
    torch.save(content | {"version": 2, "args": arguments, "metric": 71.5}, path)


def write_example(tensors: Tensors, path: Path) -> None:
    """Write what PyTorch's ImageNet example writes: an accuracy that is a tensor stands beside the weights."""
    torch.save(
        {"epoch": 3, "arch": "resnet10", "state_dict": distributed(tensors), "best_acc1": torch.tensor(71.5)}, path
    )


def write_averaged(tensors: Tensors, path: Path) -> None:
    torch.manual_seed(1)
    other = {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in tensors.items()}
    numpys = {"best": np.float64(0.5), "step": np.int64(4)}
    torch.save({"state_dict": other, "state_dict_ema": dict(tensors), **numpys}, path)


def write_released(tensors: Tensors, path: Path) -> None:
    """Write what the released code writes; its backbone and its classifier are two networks."""
    parts = {
        "feat_model": {key: value for key, value in tensors.items() if not key.startswith("fc.")},
        "classifier": {key: value for key, value in tensors.items() if key.startswith("fc.")},
    }
    best = {name: distributed(part) for name, part in parts.items()}
    torch.save({"epoch": 90, "best_epoch": 88, "state_dict_best": best, "best_acc": 0.44, "centroids": None}, path)


def read_released(path: Path) -> Tensors:
    best = load(path)["state_dict_best"]
    return single(best["feat_model"]) | single(best["classifier"])


def transformers_name(name: str) -> str:
    """Return transformers' name of torchvision's tensor."""
    parts = name.split(".")
    if parts[0] == "fc":
        return f"classifier.1.{parts[1]}"
    kind = "convolution" if parts[-2].startswith("conv") or parts[-3:-1] == ["downsample", "0"] else "normalization"
    if not parts[0].startswith("layer"):
        return f"resnet.embedder.embedder.{kind}.{parts[-1]}"
    block = f"resnet.encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
    place = "shortcut" if parts[2] == "downsample" else f"layer.{int(parts[2][-1]) - 1}"
    return f"{block}.{place}.{kind}.{parts[-1]}"


def write_transformers(tensors: Tensors, path: Path, *, backbone: str, shards: int = 1) -> None:
    """Write a folder as transformers' save_pretrained does, with class names in another order than the data's."""
    path.mkdir()
    deep = backbone == "resnet50"
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "layer_type": "bottleneck" if deep else "basic",
        "depths": [3, 4, 6, 3] if deep else [1, 1, 1, 1],
        "hidden_sizes": [256, 512, 1024, 2048] if deep else [64, 128, 256, 512],
        "embedding_size": 64,
        "id2label": {str(place): NAMES[label] for place, label in enumerate(ORDER)},
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    (path / "README.md").write_text("A network.\n")
    named = {
        transformers_name(key): value[ORDER].contiguous() if key.startswith("fc.") else value
        for key, value in tensors.items()
    }
    if shards == 1:
        save_file(named, path / "model.safetensors", metadata={"format": "pt"})
        return
    index: dict[str, Any] = {"metadata": {"total_size": sum(v.nbytes for v in named.values())}, "weight_map": {}}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(named.items())[shard::shards])
        save_file(part, path / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, file)
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def read_transformers(path: Path) -> Tensors:
    """Read a folder by its index, under torchvision's names."""
    index = path / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    found = {key: value for file in files for key, value in load_file(path / file).items()}
    names = create_model("resnet50" if len(found) > 200 else "resnet10", 2).state_dict()
    return {name: found.pop(transformers_name(name)) for name in names}


def write_timm_folder(tensors: Tensors, path: Path) -> None:
    path.mkdir()
    form = {"input_size": [3, 32, 32], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.25] * 3}
    arguments = {"num_classes": 10, "in_chans": 3, "global_pool": "avg"}
    config = {"architecture": "resnet50", "global_pool": "avg", "model_args": arguments, "label_names": NAMES}
    (path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": form | {"interpolation": "bilinear"}}))
    save_file(dict(tensors), path / "model.safetensors")


FORMATS = {
    "torchvision": Format("net.pth", "resnet50", write_plain, load, ("--backbone", "resnet50", *FLAGS)),
    "script": Format("net.pth.tar", "resnet50", write_script, lambda path: load(path)["state_dict"], ()),
    "released": Format("final_model_checkpoint.pth", "resnet50", write_released, read_released),
    "transformers": Format(
        "hub",
        "resnet50",
        lambda tensors, path: write_transformers(tensors, path, backbone="resnet50"),
        read_transformers,
        (),
        tuple(ORDER),
    ),
    "timm folder": Format(
        "timm.hub", "resnet50", write_timm_folder, lambda path: load_file(path / "model.safetensors"), ()
    ),
    "example": Format("net.pt", "resnet10", write_example, lambda path: single(load(path)["state_dict"])),
    "average": Format("ema.pth", "resnet10", write_averaged, lambda path: load(path)["state_dict_ema"]),
    "safetensors": Format(
        "net.safetensors", "resnet10", lambda tensors, path: save_file(dict(tensors), path), load_file
    ),
    "shards": Format(
        "hub",
        "resnet10",
        lambda tensors, path: write_transformers(tensors, path, backbone="resnet10", shards=3),
        read_transformers,
        (),
        tuple(ORDER),
    ),
}


def files_of(path: Path) -> dict[str, bytes]:
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}


def same(one: Any, other: Any) -> bool:
    """Say whether two contents are the same in every key, order, type and bit."""
    if isinstance(one, argparse.Namespace):
        return isinstance(other, argparse.Namespace) and same(vars(one), vars(other))
    if isinstance(one, Mapping):
        return type(one) is type(other) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_comes_back_with_another_last_layer(
    name: str, fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None]
) -> None:
    form = FORMATS[name]
    network = fitted(form.backbone)
    source = workshop / form.file
    form.write(network.tensors, source)
    given = files_of(source)
    rebalance_checkpoint(source, "--tau", "0.7", "--json", "said.json", *form.flags)
    assert files_of(source) == given
    suffix = ".pth.tar" if source.name.endswith(".tar") else "" if source.is_dir() else source.suffix
    written = source.with_name(f"{source.name.removesuffix(suffix)}.tau{suffix}")
    after = dict(form.read(written))

    said = json.loads(Path("said.json").read_text())["results"]
    row = next(row for row in said if row["split"] == "test" and row["method"] == "tau")
    weight = network.tensors["fc.weight"]
    folded = weight / weight.norm(dim=1, keepdim=True) ** 0.7 / row["params"]["temperature"]
    plain = create_model(form.backbone, 10).eval()
    plain.load_state_dict(after, strict=True)
    with torch.inference_mode():
        logits, expected = plain(network.images), F.linear(network.features, folded)[:, list(form.order)]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    # And the accuracy that was printed is what the plain network has
    right = torch.tensor(form.order)[logits.argmax(1)] == network.labels
    assert right.float().mean() > 0.8
    assert row["all"]["value"] == pytest.approx(100 * right.float().mean().item(), abs=1e-3)

    before = form.read(source)
    assert list(before) == list(after)
    changed = {key for key in before if not same(before[key], after[key])}
    assert changed == {"fc.weight", "fc.bias"}
    check_container(source, written)


def check_container(source: Path, written: Path) -> None:
    """What is no tensor of the last layer is where and what it was."""
    if source.is_dir():
        old, new = files_of(source), files_of(written)
        assert set(old) == set(new)
        last = {file for file in old if file.endswith(".safetensors") and has_last_layer(source / file)}
        assert {file for file in old if old[file] != new[file]} == last
    elif source.suffix == ".safetensors":
        with safe_open(source, "pt") as old, safe_open(written, "pt") as new:
            assert old.metadata() == new.metadata()
            assert old.offset_keys() == new.offset_keys()
    else:
        old, new = load(source), load(written)
        for content in (old, new):
            for part in parts_of(content):
                for key in [key for key in part if str(key).endswith(("fc.weight", "fc.bias"))]:
                    part[key] = None
        assert same(old, new)


def has_last_layer(file: Path) -> bool:
    return any(key.startswith(("classifier", "fc.")) for key in load_file(file))


def parts_of(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a mapping and every mapping inside it, but for the weights beside an average."""
    yield content
    for key, value in content.items():
        if isinstance(value, dict) and not (key == "state_dict" and "state_dict_ema" in content):
            yield from parts_of(value)


def test_images_are_resized_as_a_folder_says(
    fitted: Any,
    colours: Path,
    workshop: Path,
    rebalance_checkpoint: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = fitted("resnet10")
    monkeypatch.setitem(PROCESSOR, "size", {"shortest_edge": 24})
    monkeypatch.setitem(PROCESSOR, "resample", Image.Resampling.BICUBIC.value)
    write_transformers(network.tensors, Path("hub"), backbone="resnet10")
    rebalance_checkpoint("hub", "--tau", "0.7", "--force")
    model = create_model("resnet10", 10).eval()
    model.load_state_dict(network.tensors)
    files = sorted((colours / "test").glob("*/*.png"))
    images = [np.asarray(Image.open(file).resize((24, 24), Image.Resampling.BICUBIC)) for file in files]
    x = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        expected = model.features(x)
    (stored,) = Path("runs/adopted").glob("*/features/test.features.npy")
    torch.testing.assert_close(torch.from_numpy(np.load(stored)), expected, rtol=1e-4, atol=1e-4)


def test_torchvision_loads_what_comes_back(
    fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None]
) -> None:
    models = pytest.importorskip("torchvision.models")
    network = fitted("resnet50")
    write_plain(network.tensors, Path("net.pth"))
    rebalance_checkpoint("net.pth", "--tau", "0.7", "--no-temperature", *FLAGS)
    model = models.resnet50(num_classes=10).eval()
    model.load_state_dict(load(Path("net.tau.pth")), strict=True)
    assert_tau(network, model)


def test_timm_loads_what_comes_back(fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None]) -> None:
    timm = pytest.importorskip("timm")
    network = fitted("resnet50")
    write_script(network.tensors, Path("net.pth.tar"))
    rebalance_checkpoint("net.pth.tar", "--tau", "0.7", "--no-temperature", *FLAGS)
    # timm reads the command line beside the weights too, which its own loader would refuse
    torch.save({"state_dict": load(Path("net.tau.pth.tar"))["state_dict"]}, "weights.pth")
    model = timm.create_model("resnet50", num_classes=10, checkpoint_path="weights.pth").eval()
    assert_tau(network, model)


def test_transformers_loads_what_comes_back(
    fitted: Any, workshop: Path, rebalance_checkpoint: Callable[..., None]
) -> None:
    transformers = pytest.importorskip("transformers")
    network = fitted("resnet10")
    write_transformers(network.tensors, Path("hub"), backbone="resnet10", shards=3)
    rebalance_checkpoint("hub", "--tau", "0.7", "--no-temperature")
    model = transformers.ResNetForImageClassification.from_pretrained("hub.tau").eval()
    assert_tau(network, lambda images: model(images).logits, ORDER)


def assert_tau(network: Any, model: Callable[[Tensor], Tensor], order: list[int] | None = None) -> None:
    """A network gives the logits of the tau-normalized head, its classes in an order."""
    weight = network.tensors["fc.weight"]
    expected = F.linear(network.features, weight / weight.norm(dim=1, keepdim=True) ** 0.7)
    with torch.inference_mode():
        logits = model(network.images)
    torch.testing.assert_close(logits, expected[:, order or list(range(10))], rtol=1e-4, atol=1e-4)
