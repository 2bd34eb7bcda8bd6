"""The network to train: its initial weights, the parts that are trained, the optimizer, and batch norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoints.start import InitialWeights, read_initial_weights, start_from
from ..config import TrainConfig
from ..data.dataset import LongTailedDataset
from ..data.layouts.identity import class_folders
from ..models import Network, create_model, in_head
from ..models.batch_norm import soften_momentum, use_ghost_batch_norm
from ..runtime.distributed import World


def build_network(
    config: TrainConfig,
    num_classes: int,
    device: torch.device,
    world: World,
    *,
    start: bool,
    weights: InitialWeights | None = None,
    train: LongTailedDataset | None = None,
) -> Network:
    """Return the network of a run on its device.

    Args:
        config: Settings of the run.
        num_classes: Number of classes, C.
        device: The device it is trained on.
        world: The processes that train it.
        start: Whether to start from --init; not if a run's weights will be loaded.
        weights: The weights of --init; by default they are read here.
        train: The train split, whose classes the head of --init must have.

    Raises:
        ValueError, FileNotFoundError: The settings do not fit the network.
    """
    torch.manual_seed(config.seed)
    model = create_model(config.backbone, num_classes, config.image_size)
    if config.init is not None and start:
        names = [] if train is None else [train.class_names, class_folders(train) or train.class_names]
        start_from(model, weights or read_initial_weights(config.init, config.backbone, model), names)
    freeze(model, config.train_only)
    if config.loss == "ldam" and model.fc.bias is not None:
        nn.init.zeros_(model.fc.bias.requires_grad_(False))  # LDAM's logits are cosines, without a bias
    if config.bn_group is not None:
        use_ghost_batch_norm(model, config.bn_group)
    if config.sync_bn and world.size > 1:
        if device.type != "cuda":
            raise ValueError(
                f"--sync-bn: got it with --device {device.type}; expected CUDA, where PyTorch synchronizes batch norm; "
                "drop it"
            )
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if config.accumulate > 1:
        soften_momentum(model, config.accumulate)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    return model


def is_part(name: str, parts: Iterable[str]) -> bool:
    """Return whether the dotted name of a parameter or module is one of `parts` or inside one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def freeze(model: Network, parts: tuple[str, ...]) -> None:
    """Freeze everything but `parts`; an empty `parts` freezes nothing.

    Raises:
        ValueError: The network lacks one of the parts.
    """
    modules = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    for part in parts:
        if part not in modules:
            choices = ", ".join(name for name in modules if "." not in name)
            raise ValueError(f"--train-only: got {part!r}; expected parts of the network: {choices}; choose among them")
    if parts:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_part(name, parts))


def set_training_mode(model: Network, config: TrainConfig) -> None:
    """Put the network into training mode, except the batch norm that `config` freezes."""
    model.train()
    if config.train_only and config.freezes_batch_norm:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and not is_part(name, config.train_only):
                module.eval()


def parameter_groups(model: Network, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups, where `rate_share` is a group's learning rate in units of --lr."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if config.backbone_lr is None:
        return [{"params": list(trained.values()), "rate_share": 1.0}]
    groups: list[dict[str, Any]] = []
    for is_head, share in ((False, config.backbone_lr / config.lr), (True, 1.0)):
        members: list[nn.Parameter] = [p for name, p in trained.items() if in_head(name) is is_head]
        if members:
            groups.append({"params": members, "rate_share": share})
    return groups


def make_optimizer(model: Network, config: TrainConfig, device: torch.device) -> torch.optim.SGD:
    """Return SGD over the parameters that are trained."""
    return torch.optim.SGD(
        parameter_groups(model, config),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=(config.fused_sgd and device.type == "cuda") or None,
    )
