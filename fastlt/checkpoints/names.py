"""Match a checkpoint's tensor names with those of our networks, or report the tensors that do not match."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..models import HEAD, Network, in_head
from ..runtime.log import log, name_some
from .recognition import COUNTER, outline, resembling, torchvision_name, wrapper_of

NUM_NAMED, NUM_EXAMPLES = 10, 3


@dataclass(frozen=True, kw_only=True)
class NameMap:
    """How a checkpoint fills one of our networks.

    `names` maps each of our names, including the head's, to the checkpoint's; `head` is the checkpoint's name of its
    last layer. `absent` are our names that it may lack: counters, and the bias of a head without one.
    """

    backbone: str
    head: str
    names: dict[str, str]
    absent: tuple[str, ...] = ()


def match(
    path: Path,
    tensors: Mapping[str, Tensor],
    backbone: str,
    head: str | None,
    num_classes: int,
    image_size: int | None = None,
) -> NameMap:
    """Match every tensor of a checkpoint with one of a network.

    Args:
        path: The checkpoint, for messages.
        tensors: Its tensors by name.
        backbone: Name of our network.
        head: The checkpoint's name of its last layer, or None to find it.
        num_classes: Number of classes of the data.
        image_size: Side of the images, pixels, for timm networks built for one size; by default timm's own.

    Raises:
        ValueError: A tensor does not match, or the last linear layer is missing, ambiguous, or for another number of
            classes or features.
    """
    network = outline(backbone, image_size)
    if head is not None:
        check_named(path, tensors, head)
    names, rest = match_backbone(network, tensors, head)
    check_backbone(path, tensors, backbone, network, {ours: tensors[theirs] for ours, theirs in names.items()}, rest)
    last = head or find_head(path, tensors, rest)
    extra = [name for name in rest if name not in (f"{last}.weight", f"{last}.bias")]
    if extra and head is None:
        raise ValueError(
            unmatched(path, backbone, extra=extra, remedy="the --backbone that it was trained with")
            + ", or, if they belong to an auxiliary head, name the last layer with --head to keep them"
        )
    check_left_out(path, tensors, backbone, network, names, extra, last)
    if extra:
        log.info(
            "%s: %d tensors are no part of %s and stay as they are: %s", path, len(extra), backbone, name_some(extra, 5)
        )
    check_head(path, backbone, last, tensors[f"{last}.weight"], num_classes, network.num_features)
    names |= head_names(tensors, last)
    absent = tuple(name for name in network.state_dict() if name not in names)
    return NameMap(backbone=backbone, head=last, names=names, absent=absent)


def match_backbone(
    network: Network, tensors: Iterable[str], head: str | None = None
) -> tuple[dict[str, str], list[str]]:
    """Find a network's backbone among the names of a checkpoint.

    What most names have before the network's own, such as `net.` or `backbone.`, is passed over.

    Args:
        network: The network.
        tensors: The names.
        head: The name of the layer that is not part of the backbone, if it is known.

    Returns:
        (our names -> theirs, their names that have no place in the backbone).
    """
    our_names = {theirs: ours for ours, theirs in network.checkpoint_names().items()}
    expected = {name for name in our_names.values() if not in_head(name)}
    names: dict[str, str] = {}
    rest = []
    tensors = list(tensors)
    prefix = prefix_of(network, tensors, head)
    for theirs in tensors:
        own = theirs.removeprefix(prefix) if theirs.startswith(prefix) else ""
        ours = own if own in expected else our_names.get(torchvision_name(own))
        if ours in expected and theirs.rpartition(".")[0] != head:
            names[ours] = theirs
        else:
            rest.append(theirs)
    return names, rest


def prefix_of(network: Network, tensors: Iterable[str], head: str | None) -> str:
    """Return what the names of a checkpoint have before the network's own; see `match_backbone`."""
    pairs = [pair for pair in network.checkpoint_names().items() if not in_head(pair[0])]
    return wrapper_of(tensors, set(itertools.chain(*pairs)), head)


def head_names(tensors: Mapping[str, Tensor], head: str) -> dict[str, str]:
    """Return our names of the head's tensors -> theirs, with the bias only if there is one."""
    names = {f"{HEAD}.{part}": f"{head}.{part}" for part in ("weight", "bias")}
    return {ours: theirs for ours, theirs in names.items() if theirs in tensors}


def check_backbone(
    path: Path,
    tensors: Mapping[str, Tensor],
    backbone: str,
    network: Network,
    weights: Mapping[str, Tensor],
    rest: list[str],
) -> None:
    """Check that a checkpoint has every tensor of a backbone, in the right shape.

    Args:
        path: The checkpoint, for messages.
        tensors: Its tensors by name.
        backbone: Name of our network.
        network: The network.
        weights: The checkpoint's tensors that have a place in the backbone, by our names.
        rest: Names of the checkpoint that have no place in the backbone.

    Raises:
        ValueError: Tensors are missing or of another shape.
    """
    ours = {name: value for name, value in network.state_dict().items() if not in_head(name)}
    expected = {name: value.shape for name, value in ours.items()}
    file_names = network.checkpoint_names()
    missing = [file_names[name] for name in expected if name not in weights and not name.endswith(COUNTER)]
    reshaped = [
        f"{file_names[name]} is {list(value.shape)}, expected {list(expected[name])}"
        for name, value in weights.items()
        if value.shape != expected[name]
    ]
    reshaped += [
        f"{file_names[name]} is {value.dtype}, expected floating point"
        for name, value in weights.items()
        if ours[name].is_floating_point() and not value.is_floating_point()
    ]
    if missing or reshaped:
        heads = matrices(tensors, rest)
        extra = [name for name in rest if name.rpartition(".")[0] not in heads]
        remedy = other_backbone(tensors) or (
            f"the {network.shape_flags() if reshaped else '--backbone'} that it was trained with"
        )
        raise ValueError(unmatched(path, backbone, missing=missing, extra=extra, reshaped=reshaped, remedy=remedy))


def other_backbone(tensors: Mapping[str, Tensor], head: str | None = None) -> str:
    """Return the flag of the ResNet whose tensors these are, around a head if it is known; empty for none."""
    like = resembling(tensors, head)
    return f"--backbone {like}, whose tensors these are" if like else ""


def check_left_out(
    path: Path,
    tensors: Mapping[str, Tensor],
    backbone: str,
    network: Network,
    names: Mapping[str, str],
    extra: list[str],
    head: str,
) -> None:
    """Raise a ValueError if what is left out of a checkpoint may be part of the network that its head belongs to.

    Args:
        path: The checkpoint, for messages.
        tensors: Its tensors by name.
        backbone: Name of our network.
        network: The network.
        names: Our names -> the checkpoint's.
        extra: Names of the checkpoint that are left out.
        head: Its name of the last layer.
    """
    prefix = prefix_of(network, tensors, head)
    modules = {name.partition(".")[0] for name in names}
    inside = [
        name
        for name in extra
        if name.startswith(prefix) and torchvision_name(name.removeprefix(prefix)).partition(".")[0] in modules
    ]
    if inside:
        remedy = other_backbone(tensors, head) or "the --backbone that it was trained with"
        raise ValueError(unmatched(path, backbone, extra=inside, remedy=remedy))
    if not head.startswith(prefix) and len(match_backbone(network, extra)[0]) == len(names):
        other = prefix_of(network, extra, None)
        raise ValueError(
            f"--head: got {head} with {path}, which has two networks, {prefix}* and {other}*, either of which it may "
            "belong to; expected one; give a file without the other"
        )


def check_named(path: Path, tensors: Mapping[str, Tensor], head: str) -> None:
    """Raise a ValueError unless the name is that of a layer whose weight is a matrix."""
    weight = tensors.get(f"{head}.weight")
    if weight is None or weight.ndim != 2:
        what = f"no {head}.weight" if weight is None else f"a {head}.weight of shape {list(weight.shape)}"
        raise ValueError(
            f"--head: got {head}, but {path} has {what}; expected a layer whose weight is a matrix; choose one of "
            f"{name_some(matrices(tensors, tensors)[::-1], 5) or 'none: it has no matrix'}"
        )


def check_head(path: Path, backbone: str, head: str, weight: Tensor, num_classes: int, width: int) -> None:
    """Raise a ValueError unless the last layer fits the data and the backbone."""
    rows, columns = weight.shape
    if not weight.is_floating_point():
        raise ValueError(
            f"{path}: got a last layer {head} of {weight.dtype}; expected floating point; give a checkpoint that is "
            "not quantized"
        )
    if columns != width:
        raise ValueError(
            f"{path}: got a last layer {head} that takes {columns} features, but {backbone} gives {width}; expected "
            "as many; give the --backbone that it was trained with, or name the last layer with --head"
        )
    if rows != num_classes:
        raise ValueError(
            f"{path}: got a last layer {head} for {rows} classes, but the data have {num_classes}; expected as many; "
            "give the data it was trained on (--data-root), or name the last layer with --head"
        )


def matrices(tensors: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """Return the layers among `names` whose weight is a matrix."""
    return [name.removesuffix(".weight") for name in names if name.endswith(".weight") and tensors[name].ndim == 2]


def find_head(path: Path, tensors: Mapping[str, Tensor], rest: list[str]) -> str:
    """Return the only layer outside the backbone whose weight is a matrix.

    Raises:
        ValueError: There is none, or more than one.
    """
    heads = matrices(tensors, rest)
    if not heads:
        others = matrices(tensors, tensors)
        hint = f" but matrices inside the backbone ({name_some(others, 3)})" if others else ""
        raise ValueError(
            f"{path}: got no last linear layer{hint}; expected one, such as fc.weight [classes, features]; give a "
            "checkpoint with its classifier, or name it with --head"
        )
    if len(heads) > 1:
        raise ValueError(
            f"{path}: got {len(heads)} layers that could be its last linear layer, {name_some(heads, 5)}; expected "
            "one; say which with --head"
        )
    return heads[0]


def unmatched(
    path: Path,
    backbone: str,
    *,
    missing: list[str] | None = None,
    extra: list[str] | None = None,
    reshaped: list[str] | None = None,
    remedy: str,
) -> str:
    """Return a message that names the tensors that could not be mapped: up to ten, and more of them in a file."""
    kinds = {"missing": missing or [], "not expected": extra or [], "of another shape": reshaped or []}
    lines = [f"{kind}: {text}" for kind, texts in kinds.items() for text in texts]
    most = NUM_NAMED if len(lines) <= NUM_NAMED else NUM_EXAMPLES
    counts = "; ".join(f"{len(texts)} {kind} ({name_some(texts, most)})" for kind, texts in kinds.items() if texts)
    return (
        f"{path}: got weights that cannot be mapped to {backbone}: {counts}{write_all(path, lines)}; expected its "
        f"tensors and a linear head; give {remedy}"
    )


def write_all(path: Path, lines: list[str]) -> str:
    """Write all lines to a file in the working folder if they are too many for the message."""
    if len(lines) <= NUM_NAMED:
        return ""
    file = Path(f"{path.stem}.unmapped.txt")
    try:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError:
        return ""
    return f"; all of them in {file}"
