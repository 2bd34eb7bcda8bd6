"""Start a training from a checkpoint in any format that `fastlt rebalance CHECKPOINT` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models import HEAD, Network, in_head
from ..runtime.log import first_line, log
from .class_order import carried_names, order_for_head
from .names import check_backbone, head_names, match_backbone, matrices, unmatched
from .reading import read_checkpoint


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Weights that fit a backbone, by our names, with the head if the checkpoint has one."""

    path: Path
    tensors: Mapping[str, Tensor]
    note: str
    """How the weights were adapted; empty if they were not."""
    class_lists: Sequence[tuple[str, Sequence[str]]] = ()
    """(what carries them, class names in the head's order), for all that the checkpoint comes with."""
    fault: str = ""
    """Why its class names cannot be read."""


def read_initial_weights(path: Path, backbone: str, network: Network) -> InitialWeights:
    """Read the weights that a training starts from.

    A transformer's position embeddings for another image size are resampled (`Network.adapt`).

    Args:
        path: The value of --init: a file or a folder.
        backbone: Name of the network.
        network: The network, which is not changed and may have any number of classes.

    Raises:
        FileNotFoundError, ValueError: The checkpoint cannot be read, or is for another network; the message names the
            tensors that do not match.
    """
    try:
        source = read_checkpoint(path)
        tensors = source.tensors
        names, rest = match_backbone(network, tensors)
        weights, note = network.adapt({ours: tensors[theirs] for ours, theirs in names.items()})
        check_backbone(path, tensors, backbone, network, weights, rest)
        heads = matrices(tensors, rest)
        usual = network.checkpoint_names()[f"{HEAD}.weight"].removesuffix(".weight")
        named = [name for name in heads if f".{name}".endswith(f".{usual}")]
        head = head_names(tensors, next(iter(heads if len(heads) == 1 else named), usual))
        extra = [name for name in rest if name not in head.values()]
        if extra:
            remedy = "the --backbone that they belong to"
            raise ValueError(unmatched(path, backbone, extra=extra, remedy=remedy))
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"--init: {error}") from error
    head_weights = {ours: tensors[theirs] for ours, theirs in head.items()}
    class_lists: list[tuple[str, list[str]]] = []
    fault = ""
    try:
        class_lists += carried_names(path, source.settings, source.content)
    except ValueError as error:  # of no concern unless the head is used
        fault = first_line(error)
    tensors = {**weights, **head_weights}
    return InitialWeights(path=path, tensors=tensors, note=note, class_lists=class_lists, fault=fault)


@torch.no_grad()
def start_from(network: Network, weights: InitialWeights, class_names: Sequence[Sequence[str]] = ()) -> None:
    """Copy weights into a network, with zeros for a missing bias of the head.

    The head is copied only if its classes are the data's by name, in the data's order; one that comes without names, if
    it has as many.

    Args:
        network: The network, which is changed.
        weights: The weights.
        class_names: The data's class names and, if they are others, class folders.
    """
    rows, why = head_rows(network, weights, class_names)
    if why:
        log.info("%s: its head %s; ours for %d classes starts anew", weights.path, why, network.fc.num_classes)
    elif network.fc.bias is not None:
        nn.init.zeros_(network.fc.bias)
    num_tensors = 0
    for name, value in network.state_dict().items():
        if name in weights.tensors and not (why and in_head(name)):
            value.copy_(weights.tensors[name][rows] if in_head(name) else weights.tensors[name])
            num_tensors += 1
    log.info("started from %s: %d tensors%s", weights.path, num_tensors, weights.note)


def head_rows(network: Network, weights: InitialWeights, class_names: Sequence[Sequence[str]]) -> tuple[list[int], str]:
    """Return the rows of a checkpoint's head in the data's order, or why it is not for these classes."""
    head = weights.tensors.get(f"{HEAD}.weight")
    if head is None:
        return [], "is not in it"
    if head.shape != network.fc.weight.shape:
        return [], f"is for {len(head)} classes of {head.shape[1]} features"
    if weights.fault:
        return [], f"is for classes that it does not name ({weights.fault})"
    rows = list(range(len(head)))
    if not class_names:
        return rows, ""
    order, why = order_for_head(weights.class_lists, class_names)
    if why:
        return [], why
    if order is not None:
        log.info("%s: its head's classes in the order of its %s", weights.path, order.name)
        return list(order.rows), ""
    log.info("%s: names no classes; its head's are taken to be in the data's order", weights.path)
    return rows, ""
