"""Start from somebody's weights: torchvision's layout, a .pth file read without pickle's code, or safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..models import HEAD, Network, in_head
from ..runtime.log import log
from .names import COUNTER
from .reading import read_weights


def start_from(model: Network, path: Path, *, quiet: bool = False) -> None:
    """Copy a file's weights into a network; the head only if it is for as many classes.

    Position embeddings of a transformer for images of another size are resampled (`Network.adapt`).

    Args:
        model: The network.
        path: A .pth or .safetensors file.
        quiet: Say nothing: it is only tried out.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read, or is of another network; the message names the first
            tensors that do not match.
    """
    weights: Mapping[str, Tensor] = {key.removeprefix("module."): value for key, value in read_weights(path).items()}
    wanted = model.state_dict()
    ours_of = {theirs: ours for ours, theirs in model.checkpoint_names().items()}
    weights = {key if key in wanted else ours_of.get(key, key): value for key, value in weights.items()}
    weights, resampled = model.adapt(weights)
    head = {key: value for key, value in weights.items() if in_head(key)}
    ours = {key: value for key, value in wanted.items() if in_head(key)}
    fits = {key: value.shape for key, value in head.items()} == {key: value.shape for key, value in ours.items()}
    if not fits and not quiet:
        said = next((f"is for {len(value)} classes" for key, value in head.items()), "is not in it")
        log.info("%s: its head %s; ours for %d classes starts anew", path, said, len(ours[f"{HEAD}.weight"]))
    source = {key: value for key, value in weights.items() if fits or key not in head}
    target = {key: value for key, value in wanted.items() if fits or key not in ours}
    missing = [key for key in target if key not in source and not key.endswith(COUNTER)]
    extra = [key for key in source if key not in target]
    reshaped = [
        f"{key} is {list(source[key].shape)}, expected {list(value.shape)}"
        for key, value in target.items()
        if key in source and source[key].shape != value.shape
    ]
    if missing or extra or reshaped:
        reasons = [
            f"{len(missing)} tensors missing ({', '.join(missing[:3])})" if missing else "",
            f"{len(extra)} not expected ({', '.join(extra[:3])})" if extra else "",
            "; ".join(reshaped[:3]),
        ]
        flags = model.shape_flags() if reshaped else "--backbone"
        raise ValueError(
            f"--init: {path}: the weights of another network: {', '.join(filter(None, reasons))}; give the {flags} "
            "that they belong to"
        )
    with torch.no_grad():
        for key, value in target.items():
            if key in source:
                value.copy_(source[key])
    if not quiet:
        log.info("started from %s: %d tensors%s", path, len(source), resampled)
