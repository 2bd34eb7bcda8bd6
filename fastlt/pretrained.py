"""Start from somebody's weights: torchvision's layout, a .pth file read without pickle's code, or safetensors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .models import Network
from .models.timm import TimmNetwork, own_size
from .runtime.log import first_line, log

HEAD = "fc."
TRUNK = "trunk."  # where a network of the timm library keeps its own names
WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
COUNTER = "num_batches_tracked"  # files older than it, torchvision's own among them, lack it


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a .pth file that holds a state dict or one inside a dict.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none of these, is cut short, or holds objects other than tensors.
    """
    if path.is_dir():
        raise ValueError(f"--init: {path} is a folder; expected a .pth or .safetensors file")
    if not path.exists():
        raise FileNotFoundError(f"--init: {path}: no such file; expected a .pth or .safetensors file")
    if path.suffix == ".safetensors":
        return checkpoint.load(path)[0]
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, AttributeError) as error:
        reason = first_line(error)
        raise ValueError(
            f"--init: {path}: expected a .pth file of tensors or a .safetensors file, but it is incomplete, of another "
            f"kind, or holds Python objects ({reason})"
        ) from error
    while isinstance(content, Mapping):
        # Wrappers first: a script's best accuracy beside them may be a tensor too
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"--init: {path}: it holds no state dict; expected tensors by name, in torchvision's layout")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def start_from(model: Network, path: Path, *, quiet: bool = False) -> None:
    """Copy a file's weights into a network; the head only if it is for as many classes.

    Position embeddings of a transformer for images of another size are resampled (``TimmNetwork.resampled``).

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
    if any(key.startswith(TRUNK) for key in wanted) and not any(key.startswith(TRUNK) for key in weights):
        # timm's own file: its names lack our prefix, and its classifier has another name in every network
        weights = {TRUNK + key: value for key, value in weights.items() if TRUNK + key in wanted}
    resampled = ""
    if isinstance(model, TimmNetwork):
        weights, resampled = model.resampled(weights)
    head = {key: value for key, value in weights.items() if key.startswith(HEAD)}
    ours = {key: value for key, value in wanted.items() if key.startswith(HEAD)}
    fits = {key: value.shape for key, value in head.items()} == {key: value.shape for key, value in ours.items()}
    if not fits and not quiet:
        said = next((f"is for {len(value)} classes" for key, value in head.items()), "is not in it")
        log.info("%s: its head %s; ours for %d classes starts anew", path, said, len(ours[f"{HEAD}weight"]))
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
        sized = ""
        if reshaped and isinstance(model, TimmNetwork):
            size = model.arguments.get("img_size")
            sizes = f" (got {size}; timm's own is {own_size(model.trunk)})" if size else ""
            sized = f" and --image-size{sizes}"
        raise ValueError(
            f"--init: {path}: the weights of another network: {', '.join(filter(None, reasons))}; give the --backbone"
            f"{sized} that they belong to"
        )
    with torch.no_grad():
        for key, value in target.items():
            if key in source:
                value.copy_(source[key])
    if not quiet:
        log.info("started from %s: %d tensors%s", path, len(source), resampled)
