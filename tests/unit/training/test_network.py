"""What a training starts from, which parts of the network it trains, and how batch norm behaves meanwhile."""

import dataclasses
import logging
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from fastlt.checkpoints import native
from fastlt.checkpoints.start import start_from
from fastlt.config import TrainConfig
from fastlt.models import create_model
from fastlt.models.batch_norm import GhostBatchNorm2d, use_ghost_batch_norm
from fastlt.runtime.distributed import World
from fastlt.training.network import build_network, freeze, is_part, make_optimizer, parameter_groups, set_training_mode

CPU = torch.device("cpu")


def saved(path: Path, num_classes: int = 7, backbone: str = "resnet8") -> dict[str, torch.Tensor]:
    """Write a network's weights in torchvision's layout, which lacks the counters in older files."""
    torch.manual_seed(3)
    tensors = {k: v for k, v in create_model(backbone, num_classes).state_dict().items() if "tracked" not in k}
    if path.suffix == ".safetensors":
        native.save(path, tensors)
    else:
        torch.save(tensors, path)
    return tensors


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_start_takes_backbone_and_head(name: str, tmp_path: Path) -> None:
    tensors = saved(tmp_path / name)
    model = create_model("resnet8", 7)
    start_from(model, tmp_path / name)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in tensors.items())


def test_a_head_for_other_classes_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = saved(tmp_path / "weights.pth", num_classes=1000)
    model = create_model("resnet8", 7)
    before = model.fc.weight.detach().clone()
    with caplog.at_level(logging.INFO, logger="fastlt"):
        start_from(model, tmp_path / "weights.pth")
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.conv1.weight, tensors["conv1.weight"])
    assert "its head is for 1000 classes; ours for 7 classes starts anew" in caplog.text


def test_wrapped_files_of_parallel_training_are_understood(tmp_path: Path) -> None:
    tensors = saved(tmp_path / "weights.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}, tmp_path / "wrapped.pth")
    model = create_model("resnet8", 7)
    start_from(model, tmp_path / "wrapped.pth")
    assert torch.equal(model.fc.weight, tensors["fc.weight"])


def test_files_that_cannot_be_a_start_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "resnet10.pth", backbone="resnet10")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save({"weights": Path("x")}, tmp_path / "objects.pth")
    model = create_model("resnet8", 7)
    for name, error, message in (
        ("resnet10.pth", ValueError, r"not expected \(layer4.*conv1\.weight is"),
        ("text.pth", ValueError, r"\.pth .*\.safetensors"),
        ("empty.pth", ValueError, "dict of epoch"),
        ("objects.pth", ValueError, "Python objects"),
        ("absent.pth", FileNotFoundError, ""),
        ("", ValueError, "folder"),
    ):
        with pytest.raises(error, match=f"^--init: .*{re.escape(str(tmp_path / name))}.*{message}") as raised:
            start_from(model, tmp_path / name)
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
        start_from(model, tmp_path / "vit.pth")
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
        start_from(model, tmp_path / "vit.pth")


def test_only_the_named_parts_are_trained() -> None:
    model = create_model("resnet8", 7)
    freeze(model, ("layer3", "fc"))
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"layer3", "fc"}
    assert TrainConfig(train_only=("layer4,fc",)).train_only == ("layer4", "fc")


def test_a_part_is_a_whole_name() -> None:
    assert is_part("layer1.0.conv1", ("fc", "layer1"))
    assert is_part("layer1", ("layer1",))
    assert not is_part("layer10.0.conv1", ("layer1",))


def test_an_unknown_part_is_refused_with_the_parts_there_are() -> None:
    expected = r"^--train-only: got 'layer9'.*: conv1, bn1, layer1, layer2, layer3, fc"
    with pytest.raises(ValueError, match=expected):
        freeze(create_model("resnet8", 7), ("fc", "layer9"))


@pytest.mark.parametrize(
    ("change", "drifts"),
    [({}, False), ({"protocol": "released"}, True), ({"batch_norm": "train"}, True), ({"batch_norm": "frozen"}, False)],
)
def test_batch_norm_of_frozen_parts(change: dict[str, str], drifts: bool) -> None:
    config = TrainConfig(backbone="resnet8", train_only=("layer3", "fc"), **change)
    model = build_network(config, 7, CPU, World(), start=True)
    set_training_mode(model, config)
    model(torch.randn(4, 3, 32, 32))
    assert bool(model.bn1.num_batches_tracked) == drifts
    assert bool(model.layer3[0].bn1.num_batches_tracked)


def test_the_backbone_has_a_rate_of_its_own() -> None:
    config = TrainConfig(backbone="resnet8", lr=0.1, backbone_lr=0.01)
    model = build_network(config, 7, CPU, World(), start=True)
    backbone, head = parameter_groups(model, config)
    assert (backbone["rate_share"], head["rate_share"]) == (pytest.approx(0.1), 1.0)
    assert {id(p) for p in head["params"]} == {id(p) for p in model.fc.parameters()}
    assert len(backbone["params"]) + len(head["params"]) == len(list(model.parameters()))
    only_head = dataclasses.replace(config, train_only=("fc",))
    assert len(parameter_groups(build_network(only_head, 7, CPU, World(), start=True), only_head)) == 1


def test_the_optimizer_has_the_settings_of_the_run() -> None:
    config = TrainConfig(backbone="resnet8", lr=0.1, backbone_lr=0.01, momentum=0.8, weight_decay=3e-4)
    optimizer = make_optimizer(build_network(config, 7, CPU, World(), start=True), config, CPU)
    for group in optimizer.param_groups:
        told = {key: group[key] for key in ("momentum", "weight_decay", "dampening", "nesterov")}
        assert told == {"momentum": 0.8, "weight_decay": 3e-4, "dampening": 0, "nesterov": False}


def test_pieces_of_a_batch_move_the_running_statistics_as_one_would() -> None:
    config = TrainConfig(backbone="resnet8", accumulate=4, batch_size=8)
    pieces, whole = (
        build_network(each, 7, CPU, World(), start=True).bn1 for each in (config, TrainConfig(backbone="resnet8"))
    )
    x = torch.randn(8, *pieces.weight.shape, 4, 4, generator=torch.Generator().manual_seed(0)) + 3
    for _ in range(4):
        pieces(x)
    whole(x)
    torch.testing.assert_close(pieces.running_mean, whole.running_mean)
    torch.testing.assert_close(pieces.running_var, whole.running_var)


def test_ghost_batch_norm_is_batch_norm_in_every_group() -> None:
    torch.manual_seed(0)
    plain, x = nn.BatchNorm2d(3), torch.randn(8, 3, 5, 4, requires_grad=True)
    ghost = GhostBatchNorm2d(3, 4)
    nn.init.uniform_(plain.weight)
    nn.init.uniform_(plain.bias)
    ghost.load_state_dict(plain.state_dict())
    y = x.detach().clone().requires_grad_()
    expected = torch.cat([plain(x[:4]), plain(x[4:])])
    got = ghost(y)
    torch.testing.assert_close(got, expected)
    weights = torch.randn_like(got)
    for out in (expected, got):
        (out * weights).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(ghost.weight.grad, plain.weight.grad)
    # Its statistics move once, towards the mean of the groups'
    means = torch.stack([x[:4].mean((0, 2, 3)), x[4:].mean((0, 2, 3))]).mean(0)
    torch.testing.assert_close(ghost.running_mean, 0.1 * means)
    variances = torch.stack([x[:4].var((0, 2, 3)), x[4:].var((0, 2, 3))]).mean(0)
    torch.testing.assert_close(ghost.running_var, 0.9 + 0.1 * variances)
    assert ghost.num_batches_tracked == 1
    torch.testing.assert_close(
        ghost.eval()(x), nn.functional.batch_norm(x, ghost.running_mean, ghost.running_var, ghost.weight, ghost.bias)
    )
    with pytest.raises(ValueError, match=r"^--bn-group: got 4\b.*\b6 images"):
        ghost.train()(x[:6])


def test_ghost_batch_norm_keeps_the_state_dict() -> None:
    model = create_model("resnet8", 7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    use_ghost_batch_norm(model, 4)
    assert sum(isinstance(module, GhostBatchNorm2d) for module in model.modules()) == 9
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
