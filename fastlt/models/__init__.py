"""Backbones with torchvision's names and state-dict keys, and the linear head."""

from __future__ import annotations

from ..config import check_choice
from .head import HEAD, LinearHead
from .network import Network, in_head
from .resnet import SPECS, ResNet
from .timm import TimmNetwork, knows

__all__ = ["HEAD", "LinearHead", "Network", "create_model", "in_head"]


def create_model(name: str, num_classes: int, image_size: int | None = None) -> Network:
    """Return a freshly initialised network.

    Args:
        name: `resnet8` (small images), `resnet10`, `resnet50`, `resnet101`, `resnet152`, `resnext50_32x4d`,
            `resnext101_32x4d`, `resnext152_32x4d`, or `timm:NAME`.
        num_classes: Number of classes, C.
        image_size: Side of the images, pixels, for timm networks built for one size; by default timm's own.

    Returns:
        A module with `features(images [B, 3, H, W]) -> [B, D]`, the head `fc`, and logits [B, C] when called.

    Raises:
        ValueError: The name is unknown, its library is not installed, the network does not take images of that size, or
            num_classes is below 1.

    Example:
        >>> import torch
        >>> from fastlt.models import create_model
        >>> network = create_model("resnet8", 10)
        >>> network.fc
        LinearHead(num_classes=10, num_features=128, bias=True)
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: got {num_classes}; expected at least 1; give the number of classes")
    if name.startswith("timm:"):
        return TimmNetwork(name.removeprefix("timm:"), num_classes, image_size)
    if name not in SPECS and knows(name):
        raise ValueError(f"--backbone: got {name!r}; expected timm:NAME for a network of timm; give timm:{name}")
    try:
        check_choice("--backbone", name, (*SPECS, "timm:NAME"))
    except ValueError as error:
        if knows(name) is not None:
            raise
        raise ValueError(
            f"{error}; if it is a network of timm, pip install 'fastlt[timm]' and give timm:{name}"
        ) from error
    return ResNet(SPECS[name], num_classes)
