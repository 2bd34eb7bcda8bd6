"""Rebalance a checkpoint: import it as a run, rebalance the run, write it back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .. import ops
from ..checkpoints.chance import suspect
from ..checkpoints.import_run import ImportedCheckpoint, import_checkpoint
from ..checkpoints.writing import check_output, default_output, write_back
from ..config import RebalanceConfig
from ..config.checkpoint import CheckpointConfig
from ..features.store import FeatureStore
from ..run import Run
from ..runtime.device import resolve_device
from ..runtime.log import log
from .run import rebalance


def rebalance_checkpoint(
    path: Path, options: CheckpointConfig, config: RebalanceConfig | None = None
) -> tuple[Run, dict[str, Path]]:
    """Rebalance a checkpoint and write it back in its own format.

    Args:
        path: A .pth or .safetensors file, or a folder with config.json and model.safetensors.
        options: How it is to be read, and where the result goes.
        config: Method and settings.

    Returns:
        The run that was made of it, with its results; and what was written, by method.

    Raises:
        FileNotFoundError, ValueError: Something does not exist, cannot be read, or does not fit.
    """
    config = config or RebalanceConfig()
    methods = config.methods
    if options.out is not None and len(methods) > 1:
        raise ValueError(
            f"--out: got {options.out} with --method all, which writes {len(methods)} checkpoints; drop it: they are "
            "named <stem>.<method><suffix>"
        )
    outputs = {method: options.out or default_output(path, method) for method in methods}
    for out in outputs.values():
        check_output(path, out)
    imported = import_checkpoint(path, options, force=config.force)
    check_above_chance(imported, config)
    rebalance(imported.run, config)
    for method, out in outputs.items():
        write_back(imported, imported.run.method(method) / "model.safetensors", out)
    return imported.run, outputs


def check_above_chance(imported: ImportedCheckpoint, config: RebalanceConfig) -> None:
    """Stop where the checkpoint guesses on val: its preprocessing or its class order is then not what was settled.

    Raises:
        ValueError: The joint top-1 accuracy on val is near chance, or another class order explains far more, and
            `config.force` is not set.
    """
    run = imported.run
    store = FeatureStore(
        run, device=resolve_device(config.device), loader=config.loader, num_threads=config.num_threads
    )
    features, labels = store.split("val").tensors(store.device)
    head = store.head
    with torch.inference_mode():
        scores = ops.scaled_logits(features, head.weight, bias=head.bias)
        predictions = scores.argmax(1).cpu().numpy().astype(np.int64)
    num_classes = len(imported.order)
    found = suspect(predictions, labels.cpu().numpy(), num_classes)
    path = imported.checkpoint.path
    if found is None:
        return
    said = f"{path}: {found.accuracy:.1%} right on val, where guessing gives {1 / num_classes:.1%}"
    if found.cause == "class order":
        said += (
            f": likely the class order is wrong (or these are not its classes), since matching them anew explains "
            f"{found.matched:.1%} of the images; give its own order with --classes FILE"
        )
    else:
        said += (
            f" (stopped at {found.limit:.1%} or less): likely the preprocessing is wrong (or these are not its data), "
            "since no other class order explains its answers; give --image-size, --eval-resize, --mean and --std"
        )
    if not config.force:
        raise ValueError(f"{said}, or go on with --force")
    log.warning("%s (--force: going on)", said)
