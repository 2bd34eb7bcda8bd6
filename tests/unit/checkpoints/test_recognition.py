"""The network that a checkpoint is of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastlt.checkpoints.recognition import guess_backbone, resembling, torchvision_name
from fastlt.models import create_model

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


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet8", "model_args": [1]},
        {"architecture": "resnet8", "model_args": "x"},
        {"model_type": "resnet", "depths": 3},
        {"model_type": "resnet", "depths": [1, "1"]},
        {"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [None]},
        {"model_type": "resnet", "layer_type": {}},
    ],
)
def test_a_configuration_of_another_form_is_one_clear_line(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^net\.pth: got [^\n]*`\$\.[^\n]*--backbone"):
        guess_backbone(HERE, resnet(), {"config": config})
