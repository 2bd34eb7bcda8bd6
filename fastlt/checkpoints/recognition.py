"""Recognise the network of a checkpoint by its config.json or its tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..files import deciphering
from ..files.reading import convert
from ..models import Network, create_model, in_head
from ..models.resnet import SPECS, ResNetSpec

COUNTER = "num_batches_tracked"  # missing from older files, torchvision's own among them
USUAL = ("in_chans", 3)
MAX_DEPTH = 8  # parts of a name, of which the network's own names may be the rest
MAX_NAME = 100  # characters of a network's name
REMEDY = "correct it, or name the weights file alone and give --backbone"

# The names of transformers' ResNetForImageClassification
_STEM = re.compile(r"^resnet\.embedder\.embedder\.(convolution|normalization)\.(\w+)$")
_SHORTCUT = re.compile(
    r"^resnet\.encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.shortcut\.(convolution|normalization)\.(\w+)$"
)
_LAYER = re.compile(
    r"^resnet\.encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.layer\.(\d{1,3})\.(convolution|normalization)\.(\w+)$"
)


class Described(TypedDict, total=False):
    """What is taken from a config.json."""

    model_args: dict[str, Any] | None


class DescribedResNet(TypedDict, total=False):
    """What is taken from a config.json of transformers' ResNet."""

    layer_type: str
    depths: list[int]
    hidden_sizes: list[int]


def torchvision_name(name: str) -> str:
    """Translate transformers' ResNet names to torchvision's; keep any other name."""
    if match := _STEM.match(name):
        return f"{'conv1' if match[1] == 'convolution' else 'bn1'}.{match[2]}"
    if match := _SHORTCUT.match(name):
        place = 0 if match[3] == "convolution" else 1
        return f"layer{int(match[1]) + 1}.{match[2]}.downsample.{place}.{match[4]}"
    if match := _LAYER.match(name):
        part = "conv" if match[4] == "convolution" else "bn"
        return f"layer{int(match[1]) + 1}.{match[2]}.{part}{int(match[3]) + 1}.{match[5]}"
    return name


def wrapper_of(names: Iterable[str], known: Container[str], head: str | None = None) -> str:
    """Return what stands before a network's names in most of a checkpoint's; nothing if they are the network's own.

    A network that is an attribute of another module, such as `net` or `backbone`, is saved with names that begin so.
    Of several networks, such as a student and its teacher, the one that a head belongs to is taken.

    Args:
        names: The checkpoint's names.
        known: The network's.
        head: The checkpoint's name of the last layer, if it is known.
    """
    counts = Counter({"": 0})
    for name in names:
        start = 0
        for _ in range(MAX_DEPTH):
            counts[name[:start]] += torchvision_name(name[start:]) in known
            start = name.find(".", start) + 1
            if not start:
                break
    most = max(counts.values())
    around = [prefix for prefix in counts if head is not None and head.startswith(prefix) and 2 * counts[prefix] > most]
    # Of equals the first; around a head the innermost
    return max(around or counts, key=lambda prefix: (counts[prefix], len(prefix) if around else 0))


def outline(backbone: str, image_size: int | None = None) -> Network:
    """Return a network with a head of two classes, on the meta device if it is one of ours."""
    if backbone.startswith("timm:"):
        return create_model(backbone, 2, image_size)  # timm cannot build every network on the meta device
    with torch.device("meta"):
        return create_model(backbone, 2)


def guess_backbone(
    path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], head: str | None = None
) -> str:
    """Return the network that config.json names, or the ResNet whose tensors have these names and shapes.

    Args:
        path: The checkpoint, for messages.
        tensors: Its tensors by name.
        settings: Its config.json.
        head: Its name of the last layer, if it is known.

    Raises:
        ValueError: No network can be recognised.
    """
    config = settings.get("config", {})
    with deciphering(path, expected="a config.json as timm or transformers writes it", remedy=REMEDY):
        described = convert(config, Described)
    architecture = config.get("architecture")
    architecture = architecture[:MAX_NAME] if isinstance(architecture, str) else ""
    name = architecture.removeprefix("timm:").partition(".")[0]
    arguments = described.get("model_args") or {}
    if unusual := {key: value for key, value in arguments.items() if not is_usual(key, value)}:
        raise ValueError(
            f"{path}: got a config.json that builds {architecture} with model_args {str(unusual)[:200]}; expected "
            "none that change the network; use fastlt.rebalance_model from Python"
        )
    if name.lower() in SPECS and config.get("global_pool", "avg") == "avg":
        return name.lower()
    if not name and config.get("model_type") == "resnet":
        return transformers_backbone(path, config)
    like = resembling(tensors, head)
    if name:
        try:
            outline(f"timm:{name}")
        except ValueError as error:
            # A network with another pooling has the same tensors, so only the user can tell them apart
            if like is None:
                raise
            raise ValueError(
                f"--backbone: got none, and {path} names {architecture!r}, which cannot be built ({error}); expected a "
                f"name that can be; its tensors are those of {like}: give --backbone {like} if it is one"
            ) from error
        return f"timm:{name}"
    if like is None:
        raise ValueError(
            f"--backbone: got none, and the tensors of {path} match none of {', '.join(SPECS)}; expected the name of "
            "its network; give timm:NAME for timm's, or use fastlt.rebalance_model from Python"
        )
    return like


def is_usual(argument: str, value: Any) -> bool:
    """Return whether one of timm's arguments leaves the network as it is, or, like pool and size, is checked later."""
    return argument in ("num_classes", "global_pool", "img_size") or "drop" in argument or (argument, value) == USUAL


def resembling(tensors: Mapping[str, Tensor], head: str | None = None) -> str | None:
    """Return the ResNet whose tensors have these names and shapes, of several the one around a head; or None."""
    for name in SPECS:
        state = outline(name).state_dict()
        expected = {k: tuple(v.shape) for k, v in state.items() if not in_head(k) and not k.endswith(COUNTER)}
        prefix = wrapper_of(tensors, expected, head)
        shapes = {
            torchvision_name(key.removeprefix(prefix)): tuple(value.shape)
            for key, value in tensors.items()
            if key.startswith(prefix) and not key.endswith(COUNTER)
        }
        if expected.items() <= shapes.items() and sum(key.startswith("layer") for key in shapes) == sum(
            key.startswith("layer") for key in expected
        ):
            return name
    return None


def transformers_backbone(path: Path, config: Mapping[str, Any]) -> str:
    """Return the ResNet that a transformers config describes."""
    with deciphering(path, expected="a config.json as transformers writes it", remedy=REMEDY):
        described = convert(config, DescribedResNet)
    basic = described.get("layer_type", "bottleneck") == "basic"
    expansion = 1 if basic else 4
    depths, widths = described.get("depths", []), described.get("hidden_sizes", [])
    spec = ResNetSpec(blocks=tuple(depths), widths=tuple(width // expansion for width in widths), bottleneck=not basic)
    plain = not config.get("downsample_in_bottleneck") and not config.get("downsample_in_first_stage")
    plain = plain and config.get("hidden_act", "relu") == "relu"
    for name, ours in SPECS.items():
        if ours == spec and plain and config.get("embedding_size", 64) == 64:
            return name
    raise ValueError(
        f"{path}: got a config.json of a ResNet with depths {depths[:9]} and widths {widths[:9]} that fastlt does not "
        f"have; expected one of {', '.join(SPECS)}; use fastlt.rebalance_model from Python"
    )
