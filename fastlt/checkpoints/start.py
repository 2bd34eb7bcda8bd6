"""Start a training from a checkpoint in any format that `fastlt rebalance CHECKPOINT` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models import HEAD, Network, in_head
from ..runtime.log import log
from .names import check_backbone, head_names, match_backbone, matrices, unmatched
from .reading import read_checkpoint


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Weights that fit a backbone, by our names, with the head if the checkpoint has one."""

    path: Path
    tensors: Mapping[str, Tensor]
    note: str
    """How the weights were adapted; empty if they were not."""


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
        tensors = read_checkpoint(path).tensors
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
    return InitialWeights(path=path, tensors={**weights, **head_weights}, note=note)


@torch.no_grad()
def start_from(network: Network, weights: InitialWeights) -> None:
    """Copy weights into a network; the head only if its number of classes matches, with zeros for a missing bias."""
    head = weights.tensors.get(f"{HEAD}.weight")
    fits = head is not None and head.shape == network.fc.weight.shape
    if fits:
        if network.fc.bias is not None:
            nn.init.zeros_(network.fc.bias)
    else:
        what = "is not in it" if head is None else f"is for {len(head)} classes of {head.shape[1]} features"
        log.info("%s: its head %s; ours for %d classes starts anew", weights.path, what, network.fc.num_classes)
    num_tensors = 0
    for name, value in network.state_dict().items():
        if name in weights.tensors and (fits or not in_head(name)):
            value.copy_(weights.tensors[name])
            num_tensors += 1
    log.info("started from %s: %d tensors%s", weights.path, num_tensors, weights.note)
