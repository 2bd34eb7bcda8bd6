"""Networks: torchvision's keys, strides, counts and initialisation."""

import hashlib
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastlt.models import LinearHead, create_model

# The paper's networks without their classifier, counted from the published definitions
PARAMETERS = {
    "resnet10": 4_905_792,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "resnext50_32x4d": 22_979_904,
    "resnext101_32x4d": 42_128_704,
    "resnext152_32x4d": 57_902_400,
}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        model = create_model(name, 1000)
    assert sum(p.numel() for key, p in model.named_parameters() if not key.startswith("fc.")) == count


# SHA-256 of every key with its shape and every convolution with its kernel, stride, padding, groups and bias, of
# torchvision 0.29's ResNet class built with the same blocks, layers, groups and width
TORCHVISION = {
    "resnet10": "0e67545cbb0d",
    "resnet50": "3bdaa4e36c51",
    "resnet101": "4421bd2e173d",
    "resnet152": "e37cada7dc32",
    "resnext50_32x4d": "63ca4ef71f37",
    "resnext101_32x4d": "2db4b761fbf0",
    "resnext152_32x4d": "597704f456fc",
}


@pytest.mark.parametrize(("name", "digest"), TORCHVISION.items())
def test_every_key_shape_and_stride_is_torchvisions(name: str, digest: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 1000)
    lines = [f"{key} {tuple(value.shape)}\n" for key, value in model.state_dict().items()]
    lines += [
        f"{key} {conv.kernel_size} {conv.stride} {conv.padding} {conv.groups} {conv.bias is None}\n"
        for key, conv in model.named_modules()
        if isinstance(conv, nn.Conv2d)
    ]
    assert hashlib.sha256("".join(lines).encode()).hexdigest()[:12] == digest


def test_resnet50_has_torchvisions_keys_and_shapes() -> None:
    with torch.device("meta"):
        state = create_model("resnet50", 1000).state_dict()
    assert len(state) == 320
    shapes = {
        "conv1.weight": [64, 3, 7, 7],
        "bn1.running_mean": [64],
        "layer1.0.conv1.weight": [64, 64, 1, 1],
        "layer1.0.downsample.0.weight": [256, 64, 1, 1],
        "layer1.0.downsample.1.num_batches_tracked": [],
        "layer3.5.conv3.weight": [1024, 256, 1, 1],
        "layer4.2.bn3.weight": [2048],
        "fc.weight": [1000, 2048],
        "fc.bias": [1000],
    }
    for key, shape in shapes.items():
        assert list(state[key].shape) == shape, key


def test_resnext50_has_grouped_convolutions_of_torchvisions_shape() -> None:
    with torch.device("meta"):
        state = create_model("resnext50_32x4d", 7).state_dict()
    assert list(state["layer1.0.conv2.weight"].shape) == [128, 4, 3, 3]
    assert list(state["layer4.0.conv2.weight"].shape) == [1024, 32, 3, 3]


def test_the_stride_is_on_the_3x3_convolution() -> None:
    with torch.device("meta"):
        model = create_model("resnet50", 7)
    assert model.layer2[0].conv1.stride == (1, 1)
    assert model.layer2[0].conv2.stride == (2, 2)
    assert model.layer1[0].conv2.stride == (1, 1)


def test_the_stems_shrink_as_torchvisions_does_or_less() -> None:
    images = torch.randn(1, 3, 64, 64)
    for name, side in (("resnet10", 16), ("resnet8", 32)):
        model = create_model(name, 7)
        assert model.maxpool(model.conv1(images)).shape[-1] == side
    pool = create_model("resnet10", 7).maxpool
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert pool(ramp).flatten().tolist() == [5, 7, 13, 15]  # windows of 3 from -1 on


def test_convolutions_start_at_fan_out_and_batch_norms_at_one() -> None:
    torch.manual_seed(0)
    model = create_model("resnet10", 7)
    weight = model.layer4[0].conv2.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (3 * 3 * 512)), rel=0.01)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("name", ["resnet8", "resnet10", "resnext50_32x4d"])
def test_logits_are_the_head_of_the_features(name: str) -> None:
    model = create_model(name, 5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = model.features(images)
        assert features.shape == (2, model.num_features)
        torch.testing.assert_close(model(images), features @ model.fc.weight.T + model.fc.bias)


def test_stages_cover_the_backbone_from_input_to_output() -> None:
    with torch.device("meta"):
        model = create_model("resnet10", 5)
    stem, *stages = model.stages()
    assert {id(p) for p in stem.parameters()} == {id(p) for m in (model.conv1, model.bn1) for p in m.parameters()}
    layers = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert [[*map(id, stage.parameters())] for stage in stages] == [[*map(id, layer.parameters())] for layer in layers]
    assert model.avgpool in stages[-1].modules()


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^--backbone: got 'resnet5O'.*'resnet50'"):
        create_model("resnet5O", 5)


def test_a_name_of_timms_alone_is_answered_with_how_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(is_model=lambda name: name == "resnet18"))
    with pytest.raises(ValueError, match=r"^--backbone: got 'resnet18'; [^;]*; give timm:resnet18$"):
        create_model("resnet18", 5)
    with pytest.raises(ValueError, match=r"^--backbone: got 'resnet5'; did you mean 'resnet50'\? [^;]*$"):
        create_model("resnet5", 5)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^--backbone: .*; .*pip install 'fastlt\[timm\]' and give timm:resnet18$"):
        create_model("resnet18", 5)
    assert create_model("resnet8", 5).num_features == 128


def test_timm_names_need_timm_or_give_a_network() -> None:
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError):
        with pytest.raises(ValueError, match=r"^--backbone\b.*timm:resnet18\b.*pip install 'fastlt\[timm\]'"):
            create_model("timm:resnet18", 5)
        return
    model = create_model("timm:resnet18", 5).eval()
    images = torch.randn(2, 3, 64, 64)
    assert model.features(images).shape == (2, 512)
    assert model(images).shape == (2, 5)
    with pytest.raises(ValueError, match=r"^--backbone\b.*timm:resnet18x\b.*\bresnet18\b"):
        create_model("timm:resnet18x", 5)
    assert create_model("timm:vit_tiny_patch16_224", 5, 64)(images).shape == (2, 5)


class OfOneSize(nn.Module):
    """Stands in for a network of timm's that is built for images of one size."""

    pretrained_cfg = {"input_size": (3, 32, 32)}  # noqa: RUF012

    def __init__(self, num_classes: int, img_size: int = 32) -> None:
        super().__init__()
        if img_size < 16:
            raise TypeError("too small")
        self.img_size, self.head = img_size, nn.Linear(3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[-1] == self.img_size, f"Input height doesn't match model ({self.img_size})."
        return self.head(images.mean((2, 3)))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, _: int) -> None:
        self.head = nn.Identity()


def test_a_network_of_one_size_is_built_for_the_images_or_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(_: str, *, pretrained: bool, **arguments: int) -> nn.Module:
        assert not pretrained
        return OfOneSize(**arguments)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(is_model=lambda _: True, create_model=make))
    same, other = create_model("timm:fixed", 5, 32), create_model("timm:fixed", 5, 48)
    assert (same.arguments, other.arguments) == ({}, {"img_size": 48})
    assert other(torch.zeros(2, 3, 48, 48)).shape == (2, 5)
    assert other.trunk.training
    with pytest.raises(ValueError, match=r"^--image-size: got 8\b.*timm:fixed\b.*match model \(32\).*\b32$"):
        create_model("timm:fixed", 5, 8)


class WithBlocks(OfOneSize):
    """Stands in for a transformer of timm's: a token of its own, a stem, blocks, and a norm behind them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.token = nn.Parameter(torch.zeros(1))
        self.stem, self.blocks = nn.Linear(1, 1), nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))
        self.norm = nn.LayerNorm(3)


def test_stages_of_timms_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(_: str, *, pretrained: bool, **arguments: int) -> nn.Module:
        return network(**arguments)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(is_model=lambda _: True, create_model=make))
    network: type[OfOneSize] = WithBlocks
    model = create_model("timm:blocks", 5)
    stem, first, last = ({name for name, p in model.named_parameters() if id(p) in held} for held in (
        {id(p) for p in stage.parameters()} for stage in model.stages()))  # fmt: skip
    assert stem == {"trunk.token", "trunk.stem.weight", "trunk.stem.bias"}
    assert first == {"trunk.blocks.0.weight", "trunk.blocks.0.bias"}
    assert last == {"trunk.blocks.1.weight", "trunk.blocks.1.bias", "trunk.norm.weight", "trunk.norm.bias"}
    assert model.checkpoint_names()["fc.weight"] == "head.weight"
    assert model.checkpoint_names()["trunk.norm.bias"] == "norm.bias"
    network = OfOneSize
    assert len(create_model("timm:plain", 5).stages()) == 1


def test_linear_head_is_nn_linear() -> None:
    linear = nn.Linear(6, 4)
    head = LinearHead(linear.weight.detach(), linear.bias.detach())
    x = torch.randn(3, 6)
    torch.testing.assert_close(head(x), linear(x))
    assert set(head.state_dict()) == {"weight", "bias"}
    assert (head.num_classes, head.num_features) == (4, 6)
    torch.testing.assert_close(head.norms(), linear.weight.norm(dim=1))


def test_a_new_head_starts_as_nn_linear_by_the_width_of_its_features() -> None:
    made = LinearHead.initialised(50, 400, generator=torch.Generator().manual_seed(0))
    assert 0.0499 < made.weight.abs().max() <= 0.05  # 1 / sqrt(400)
    assert 0.045 < made.bias.abs().max() <= 0.05
    assert made.weight.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.02)


def test_linear_head_without_bias() -> None:
    head = LinearHead(torch.eye(3))
    assert head.bias is None
    assert set(head.state_dict()) == {"weight"}


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [(torch.zeros(3), None, r"^weight: .*\(3,\)"), (torch.zeros(3, 2), torch.zeros(2), r"^bias: .*\(2,\)")],
)
def test_linear_head_refuses_other_shapes(weight: torch.Tensor, bias: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearHead(weight, bias)
