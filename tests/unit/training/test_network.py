"""What a training starts from, which parts of the network it trains, and how batch norm behaves meanwhile."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from fastlt.checkpoints import native
from fastlt.config import TrainConfig
from fastlt.data.dataset import LongTailedDataset
from fastlt.files import write_json
from fastlt.models import create_model
from fastlt.models.batch_norm import GhostBatchNorm2d, use_ghost_batch_norm
from fastlt.runtime.distributed import World
from fastlt.training.network import build_network, freeze, is_part, make_optimizer, parameter_groups, set_training_mode

CPU = torch.device("cpu")


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
        options = {key: group[key] for key in ("momentum", "weight_decay", "dampening", "nesterov")}
        assert options == {"momentum": 0.8, "weight_decay": 3e-4, "dampening": 0, "nesterov": False}


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


def test_the_head_of_an_earlier_run_is_taken_by_the_names_of_its_classes(tmp_path: Path) -> None:
    earlier = create_model("resnet8", 3).state_dict()
    path = tmp_path / "run/checkpoints/best.safetensors"
    path.parent.mkdir(parents=True)
    native.save(path, earlier)
    write_json(tmp_path / "run/config.json", {})
    write_json(tmp_path / "run/data.json", {"class_names": ["cow", "bee", "ant"]})
    for name in ("ant", "bee", "cow"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / "1.png")
    train = LongTailedDataset.from_folder(tmp_path / "train", cache=False)
    config = TrainConfig(backbone="resnet8", init=path, seed=5)
    model = build_network(config, 3, CPU, World(), start=True, train=train)
    assert torch.equal(model.fc.weight, earlier["fc.weight"].flip(0))
    assert torch.equal(model.conv1.weight, earlier["conv1.weight"])
    write_json(tmp_path / "run/data.json", {"class_names": ["0", "1", "2"]})  # folders with numbers for names
    other = build_network(config, 3, CPU, World(), start=True, train=train)
    assert not any(torch.equal(row, theirs) for row in other.fc.weight for theirs in earlier["fc.weight"])
    assert torch.equal(other.conv1.weight, earlier["conv1.weight"])
