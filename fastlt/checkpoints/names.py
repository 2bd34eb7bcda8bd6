"""Match a checkpoint's names with those of our networks: a table from ours to theirs, or what does not match."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models import HEAD, Network, create_model, in_head
from ..models.resnet import SPECS, ResNetSpec
from ..runtime.log import log, name_some

COUNTER = "num_batches_tracked"  # files older than it, torchvision's own among them, lack it
USUAL = ("in_chans", 3)
NUM_NAMED, NUM_EXAMPLES = 10, 3

# transformers' ResNetForImageClassification
_STEM = re.compile(r"^resnet\.embedder\.embedder\.(convolution|normalization)\.(\w+)$")
_SHORTCUT = re.compile(r"^resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(\w+)$")
_LAYER = re.compile(
    r"^resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(convolution|normalization)\.(\w+)$"
)


@dataclass(frozen=True, kw_only=True)
class NameMap:
    """How a checkpoint fills one of our networks.

    `names` has their name for each of ours (the head's included); `head` is their last layer's name. `absent` are
    ours that a checkpoint may lack: counters, and the bias of a layer without one.
    """

    backbone: str
    head: str
    names: dict[str, str]
    absent: tuple[str, ...] = field(default=())


def our_name(name: str) -> str:
    """Translate transformers' ResNet names to torchvision's; any other name stays."""
    if found := _STEM.match(name):
        return f"{'conv1' if found[1] == 'convolution' else 'bn1'}.{found[2]}"
    if found := _SHORTCUT.match(name):
        place = 0 if found[3] == "convolution" else 1
        return f"layer{int(found[1]) + 1}.{found[2]}.downsample.{place}.{found[4]}"
    if found := _LAYER.match(name):
        part = "conv" if found[4] == "convolution" else "bn"
        return f"layer{int(found[1]) + 1}.{found[2]}.{part}{int(found[3]) + 1}.{found[5]}"
    return name


def match(
    path: Path,
    tensors: Mapping[str, Tensor],
    backbone: str,
    head: str | None,
    num_classes: int,
    image_size: int | None = None,
) -> NameMap:
    """Match every tensor of a checkpoint with one of a network's.

    Args:
        path: The checkpoint, for messages.
        tensors: Its tensors by name.
        backbone: Name of our network.
        head: Name of its last layer, or None to find it.
        num_classes: Number of classes of the data.
        image_size: Side of its images, pixels, for timm's networks that are built for one; by default timm's own.

    Raises:
        ValueError: A tensor does not match, there is no last linear layer or a choice of two, or it is for another
            number of classes or of another width.
    """
    network = outline(backbone, image_size)
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    if head is not None:
        check_named(path, tensors, head)
    expected = {key: shape for key, shape in wanted.items() if not in_head(key)}
    file_names = network.checkpoint_names()
    our_names = {theirs: ours for ours, theirs in file_names.items()}
    names: dict[str, str] = {}
    left = []
    for theirs in tensors:
        ours = theirs if theirs in expected else our_names.get(our_name(theirs), "")
        if ours in expected and theirs.rpartition(".")[0] != head:
            names[ours] = theirs
        else:
            left.append(theirs)
    missing = [key for key in expected if key not in names and not key.endswith(COUNTER)]
    reshaped = [
        f"{theirs} is {list(tensors[theirs].shape)}, expected {list(expected[ours])}"
        for ours, theirs in names.items()
        if tuple(tensors[theirs].shape) != expected[ours]
    ]
    if missing or reshaped:
        heads = matrices(tensors, left)
        beside = [key for key in left if key.rpartition(".")[0] not in heads]
        flags = network.shape_flags() if reshaped else "--backbone"
        absent_ones = [file_names[key] for key in missing]
        raise ValueError(unmatched(path, tensors, backbone, absent_ones, beside, reshaped, flags))
    last = head or find_head(path, tensors, left)
    weight = tensors[f"{last}.weight"]
    extra = [key for key in left if key not in (f"{last}.weight", f"{last}.bias")]
    if extra and head is None:
        raise ValueError(unmatched(path, tensors, backbone, [], extra, []))
    if extra:
        log.info(
            "%s: %d tensors are no part of %s and stay as they are: %s", path, len(extra), backbone, name_some(extra, 5)
        )
    check_head(path, backbone, last, weight, num_classes, wanted[f"{HEAD}.weight"][1])
    names[f"{HEAD}.weight"] = f"{last}.weight"
    if f"{last}.bias" in tensors:
        names[f"{HEAD}.bias"] = f"{last}.bias"
    absent = tuple(key for key in wanted if key not in names)
    return NameMap(backbone=backbone, head=last, names=names, absent=absent)


def check_named(path: Path, tensors: Mapping[str, Tensor], head: str) -> None:
    """Raise a ValueError unless a name is that of a layer whose weight is a matrix."""
    weight = tensors.get(f"{head}.weight")
    if weight is None or weight.ndim != 2:
        what = f"no {head}.weight" if weight is None else f"a {head}.weight of shape {list(weight.shape)}"
        raise ValueError(
            f"--head: got {head}, but {path} has {what}; expected a layer whose weight is a matrix: "
            f"{name_some(matrices(tensors, tensors)[::-1], 5) or 'it has none'}"
        )


def check_head(path: Path, backbone: str, head: str, weight: Tensor, num_classes: int, width: int) -> None:
    """Raise a ValueError unless the last layer fits the data and the backbone."""
    rows, columns = weight.shape
    if not weight.is_floating_point():
        raise ValueError(f"{path}: its last layer {head} is of {weight.dtype}; expected floating point: not quantized")
    if columns != width:
        raise ValueError(
            f"{path}: its last layer {head} takes {columns} features, but {backbone} gives {width}; give the "
            "--backbone that it was trained with, or name the last layer with --head"
        )
    if rows != num_classes:
        raise ValueError(
            f"{path}: its last layer {head} is for {rows} classes, but the data have {num_classes}; give the data it "
            "was trained on (--data-root), or name the last layer with --head"
        )


def matrices(tensors: Mapping[str, Tensor], names: Any) -> list[str]:
    """Return the layers among `names` whose weight is a matrix."""
    return [name.removesuffix(".weight") for name in names if name.endswith(".weight") and tensors[name].ndim == 2]


def find_head(path: Path, tensors: Mapping[str, Tensor], left: list[str]) -> str:
    """Return the only layer outside the backbone whose weight is a matrix.

    Raises:
        ValueError: There is none, or more than one.
    """
    found = matrices(tensors, left)
    if not found:
        others = matrices(tensors, tensors)
        hint = f"; it has matrices only inside the backbone ({name_some(others, 3)})" if others else ""
        raise ValueError(
            f"{path}: it has no last linear layer{hint}; expected one, such as fc.weight [classes, features]: give a "
            "checkpoint with its classifier, or name it with --head"
        )
    if len(found) > 1:
        raise ValueError(
            f"{path}: {len(found)} layers could be its last linear layer, {name_some(found, 5)}; say which with --head"
        )
    return found[0]


def unmatched(
    path: Path,
    tensors: Mapping[str, Tensor],
    backbone: str,
    missing: list[str],
    extra: list[str],
    reshaped: list[str],
    flags: str = "--backbone",
) -> str:
    """Say what could not be mapped, key by key: up to ten in the message, more of them in a file beside it."""
    lines = [
        *(f"missing: {key}" for key in missing),
        *(f"not expected: {key}" for key in extra),
        *(f"another shape: {text}" for text in reshaped),
    ]
    most = NUM_NAMED if len(lines) <= NUM_NAMED else NUM_EXAMPLES
    counts = [
        f"{len(keys)} {what} ({name_some(keys, most)})"
        for keys, what in ((missing, "missing"), (extra, "not expected"), (reshaped, "of another shape"))
        if keys
    ]
    remedy = f"give the {flags} that it was trained with"
    if like := resembling(tensors) if missing or reshaped else None:
        remedy = f"its tensors are those of {like}: give --backbone {like}"
    elif not missing and not reshaped:
        remedy += ", or, if they stand beside it (an auxiliary head), name the last layer with --head: they stay"
    return (
        f"{path}: {len(lines)} tensors cannot be mapped to {backbone}: {'; '.join(counts)}{write_all(path, lines)}; "
        f"{remedy}"
    )


def write_all(path: Path, lines: list[str]) -> str:
    """Write every line to a file in the working folder where the message cannot hold them."""
    if len(lines) <= NUM_NAMED:
        return ""
    file = Path(f"{path.stem}.unmapped.txt")
    try:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError:
        return ""
    return f"; all of them in {file}"


def outline(backbone: str, image_size: int | None = None) -> Network:
    """Return a network with a head of two classes, without memory if it is one of ours."""
    if backbone.startswith("timm:"):
        return create_model(backbone, 2, image_size)  # timm does not build every network without memory
    with torch.device("meta"):
        return create_model(backbone, 2)


def guess_backbone(path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """Return the network that config.json names, or the ResNet whose tensors have these names and shapes.

    Raises:
        ValueError: There is none.
    """
    config = settings.get("config", {})
    named = config.get("architecture")
    plain = named.removeprefix("timm:").partition(".")[0] if isinstance(named, str) else ""
    arguments = config.get("model_args") or {}
    if beyond := {key: value for key, value in arguments.items() if not is_usual(key, value)}:
        raise ValueError(
            f"{path}: its config.json builds {named} with model_args {beyond}, which fastlt cannot pass on; use "
            "fastlt.rebalance_model from Python"
        )
    if plain.lower() in SPECS and config.get("global_pool", "avg") == "avg":
        return plain.lower()
    if not plain and config.get("model_type") == "resnet":
        return transformers_backbone(path, config)
    like = resembling(tensors)
    if plain:
        try:
            outline(f"timm:{plain}")
        except ValueError as error:
            # Networks that pool otherwise have the same tensors: not for us to decide
            if like is None:
                raise
            raise ValueError(
                f"--backbone: missing; {path} says that its network is {named!r}, which cannot be built "
                f"({error}); its tensors are those of {like}: give --backbone {like} if it is one"
            ) from error
        return f"timm:{plain}"
    if like is None:
        raise ValueError(
            f"--backbone: missing; the tensors of {path} are none of {', '.join(SPECS)}'s: name the network (timm:NAME "
            "for timm's), or use fastlt.rebalance_model from Python"
        )
    return like


def is_usual(argument: str, value: Any) -> bool:
    """Say whether one of timm's arguments changes nothing, or nothing that is not found out later: pool and size."""
    return argument in ("num_classes", "global_pool", "img_size") or "drop" in argument or (argument, value) == USUAL


def resembling(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the ResNet whose tensors have these names and shapes, or None."""
    have = {our_name(key): tuple(value.shape) for key, value in tensors.items() if not key.endswith(COUNTER)}
    for name in SPECS:
        state = outline(name).state_dict()
        expected = {k: tuple(v.shape) for k, v in state.items() if not in_head(k) and not k.endswith(COUNTER)}
        if expected.items() <= have.items() and sum(key.startswith("layer") for key in have) == sum(
            key.startswith("layer") for key in expected
        ):
            return name
    return None


def transformers_backbone(path: Path, config: Mapping[str, Any]) -> str:
    """Return the ResNet that a transformers config describes."""
    basic = config.get("layer_type", "bottleneck") == "basic"
    expansion = 1 if basic else 4
    spec = ResNetSpec(
        blocks=tuple(config.get("depths", ())),
        widths=tuple(width // expansion for width in config.get("hidden_sizes", ())),
        bottleneck=not basic,
    )
    plain = not config.get("downsample_in_bottleneck") and not config.get("downsample_in_first_stage")
    plain = plain and config.get("hidden_act", "relu") == "relu"
    for name, known in SPECS.items():
        if known == spec and plain and config.get("embedding_size", 64) == 64:
            return name
    raise ValueError(
        f"{path}: its config.json describes a ResNet of depths {config.get('depths')} and widths "
        f"{config.get('hidden_sizes')} that fastlt does not have; use fastlt.rebalance_model from Python"
    )
