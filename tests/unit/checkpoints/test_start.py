"""What a training starts from: a checkpoint of any form, read as `fastlt rebalance CHECKPOINT` reads it."""

import argparse
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastlt.checkpoints import native
from fastlt.checkpoints.import_run import our_tensors
from fastlt.checkpoints.names import match
from fastlt.checkpoints.reading import read_checkpoint
from fastlt.checkpoints.start import read_initial_weights, start_from
from fastlt.files import write_json
from fastlt.models import Network, create_model, in_head

Tensors = dict[str, torch.Tensor]


def saved(path: Path, num_classes: int = 7, backbone: str = "resnet8") -> Tensors:
    """Write a network's weights in torchvision's layout, which lacks the counters in older files."""
    torch.manual_seed(3)
    tensors = {k: v for k, v in create_model(backbone, num_classes).state_dict().items() if "tracked" not in k}
    if path.suffix == ".safetensors":
        native.save(path, tensors)
    else:
        torch.save(tensors, path)
    return tensors


def start(model: Network, path: Path, backbone: str = "resnet8") -> None:
    start_from(model, read_initial_weights(path, backbone, model))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_start_takes_backbone_and_head(name: str, tmp_path: Path) -> None:
    tensors = saved(tmp_path / name)
    model = create_model("resnet8", 7)
    start(model, tmp_path / name)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in tensors.items())


def test_a_head_for_other_classes_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = saved(tmp_path / "weights.pth", num_classes=1000)
    model = create_model("resnet8", 7)
    before = model.fc.weight.detach().clone()
    with caplog.at_level(logging.INFO, logger="fastlt"):
        start(model, tmp_path / "weights.pth")
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.conv1.weight, tensors["conv1.weight"])
    assert re.search(r"its head is for 1000 classes\b.*; ours for 7 classes starts anew", caplog.text)


@pytest.mark.parametrize(
    ("extra", "rows", "said"),
    [
        ({"class_to_idx": {"cow": 0, "ant": 1, "bee": 2}}, [1, 2, 0], "in the order of its dict with class_to_idx"),
        (
            {"args": argparse.Namespace(class_names=["bee", "cow", "ant"])},
            [2, 0, 1],
            "in the order of its dict with args",
        ),
        ({"classes": ["LABEL_0", "LABEL_1", "LABEL_2"]}, [0, 1, 2], "names no classes"),
        ({}, [0, 1, 2], "names no classes"),
        ({"classes": ["ant", "bee", "dog"]}, None, "for other classes .*lacks cow; the data have no dog"),
        ({"classes": ["x", "y", "z"]}, None, "for other classes .*lacks ant, bee, cow"),
        (
            {"classes": ["ant", "bee", "cow"], "class_to_idx": {"cow": 0, "ant": 1, "bee": 2}},
            None,
            "classes in two orders .*class_to_idx and its dict with classes",
        ),
        (
            {"classes": ["tench", "eel", "ray"], "class_names": ["cow", "ant", "bee"]},
            [1, 2, 0],
            "dict with class_names",
        ),
        ({"idx_to_class": {1: "ant", 2: "bee", 3: "cow"}}, None, "idx_to_class whose keys are not the numbers"),
    ],
)
def test_a_head_is_taken_class_by_class(
    extra: dict[str, Any], rows: list[int] | None, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = saved(tmp_path / "weights.pth", num_classes=3)
    tensors["fc.bias"] = torch.arange(3.0)
    torch.save({"state_dict": tensors, **extra}, tmp_path / "net.pth")
    model = create_model("resnet8", 3)
    new = {"weight": model.fc.weight.detach().clone(), "bias": model.fc.bias.detach().clone()}
    with caplog.at_level(logging.INFO, logger="fastlt"):
        weights = read_initial_weights(tmp_path / "net.pth", "resnet8", model)
        start_from(model, weights, [("ant", "bee", "cow")])
    assert re.search(f"net.pth: .*{said}", caplog.text)
    for part, value in model.fc.state_dict().items():
        assert torch.equal(value, new[part] if rows is None else tensors[f"fc.{part}"][rows])
    assert torch.equal(model.conv1.weight, tensors["conv1.weight"])


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def other(tensors: Tensors) -> Tensors:
    return {name: value + 1 for name, value in tensors.items()}


def shards(tensors: Tensors, path: Path) -> None:
    """Write a folder of two shards and their index."""
    path.mkdir()
    files = {name: f"model-{1 + place % 2}.safetensors" for place, name in enumerate(tensors)}
    for file in set(files.values()):
        native.save(path / file, {name: value for name, value in tensors.items() if files[name] == file})
    write_json(path / "model.safetensors.index.json", {"weight_map": files})


def pickled(wrap: Callable[[Tensors], Any]) -> Callable[[Tensors, Path], None]:
    return lambda tensors, path: torch.save(wrap(tensors), path)


FORMS = {
    "plain": pickled(lambda tensors: tensors),
    "data parallel": pickled(lambda tensors: {"epoch": 3, "state_dict": under("module.", tensors)}),
    "compiled": pickled(lambda tensors: under("_orig_mod.", tensors)),
    "lightning": pickled(lambda tensors: {"state_dict": under("model.", tensors)}),
    "compiled, in parallel": pickled(lambda tensors: under("module._orig_mod.", tensors)),
    "timm's script": pickled(lambda tensors: {"state_dict": tensors, "args": argparse.Namespace(lr=0.1)}),
    "averaged": pickled(lambda tensors: {"model_ema": {"n_averaged": torch.tensor(9), **under("module.", tensors)}}),
    "averaged and plain": pickled(lambda tensors: {"model": other(tensors), "model_ema": tensors}),
    "averaged and plain, timm's": pickled(lambda tensors: {"state_dict": other(tensors), "state_dict_ema": tensors}),
    "released": pickled(
        lambda tensors: {
            "state_dict_best": {
                "feat_model": under("module.", {k: v for k, v in tensors.items() if not in_head(k)}),
                "classifier": under("module.", {k: v for k, v in tensors.items() if in_head(k)}),
            }
        }
    ),
    "another head": pickled(lambda tensors: {k.replace("fc.", "classifier.1."): v for k, v in tensors.items()}),
    "without a bias": pickled(lambda tensors: {k: v for k, v in tensors.items() if k != "fc.bias"}),
    "shards": shards,
}


@pytest.mark.parametrize("form", FORMS)
def test_training_and_rebalancing_read_the_same_weights(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = saved(tmp_path / "weights.pth")
    path = tmp_path / "net"
    FORMS[form](tensors, path)
    model = create_model("resnet8", 7)
    with caplog.at_level(logging.INFO, logger="fastlt"):
        start(model, path)
    if "and" in form.split():
        assert re.search(r"took the averaged weights in \w+, not those in \w+", caplog.text)
    read = read_checkpoint(path).tensors
    names = match(path, read, "resnet8", None, 7)
    ours = our_tensors(path, read, names, tuple(range(7)))
    bias = torch.zeros(7) if form == "without a bias" else tensors["fc.bias"]
    for name, value in {**tensors, "fc.bias": bias}.items():
        assert torch.equal(model.state_dict()[name], value), name
        assert torch.equal(ours[name], value), name


def test_files_that_cannot_be_a_start_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a long list goes
    saved(tmp_path / "resnet10.pth", backbone="resnet10")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save({"weights": Path("x")}, tmp_path / "objects.pth")
    model = create_model("resnet8", 7)
    for name, error, message in (
        ("resnet10.pth", ValueError, r"not expected \(layer4.*conv1\.weight is.*--backbone resnet10"),
        ("text.pth", ValueError, r"\.pth .*\.safetensors"),
        ("empty.pth", ValueError, "dict of epoch"),
        ("objects.pth", ValueError, "Python object"),
        ("absent.pth", FileNotFoundError, ""),
        ("", ValueError, "folder"),
    ):
        with pytest.raises(error, match=f"^--init: .*{re.escape(str(tmp_path / name))}.*{message}") as raised:
            start(model, tmp_path / name)
        assert "\n" not in str(raised.value)


def test_position_embeddings_of_another_image_size_are_resampled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("timm")
    theirs = create_model("timm:vit_tiny_patch16_224", 7).state_dict()
    theirs["trunk.pos_embed"][0, 1:] = torch.arange(14.0).repeat_interleave(14)[:, None]  # the row of the patch
    torch.save(theirs, tmp_path / "vit.pth")
    model = create_model("timm:vit_tiny_patch16_224", 7, 64)
    with caplog.at_level(logging.INFO, logger="fastlt"):
        start(model, tmp_path / "vit.pth", "timm:vit_tiny_patch16_224")
    assert "position embeddings resampled from images of 224 pixels to 64" in caplog.text
    ours = model.state_dict()
    assert torch.equal(ours["trunk.pos_embed"][:, 0], theirs["trunk.pos_embed"][:, 0])
    rows = ours["trunk.pos_embed"][0, 1:].unflatten(0, (4, 4))
    torch.testing.assert_close(rows, rows[:, :1, :1].expand_as(rows))
    assert (rows[1:] > rows[:-1] + 2).all()
    assert torch.equal(ours["trunk.blocks.0.attn.qkv.weight"], theirs["trunk.blocks.0.attn.qkv.weight"])
    theirs["trunk.pos_embed"] = theirs["trunk.pos_embed"][:, 1:]
    torch.save(theirs, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=r"^--init: .*pos_embed .*\[1, 196, 192\].*\[1, 17, 192\].*\b64\b.*\b224\b"):
        start(model, tmp_path / "vit.pth", "timm:vit_tiny_patch16_224")
