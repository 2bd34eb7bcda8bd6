"""Rebalance a checkpoint: import it as a run, rebalance the run, write it back."""

from __future__ import annotations

import functools
from pathlib import Path

from ..checkpoints.chance import suspect
from ..checkpoints.import_run import ImportedCheckpoint, import_checkpoint
from ..checkpoints.writing import check_output, default_output, write_back
from ..config import RebalanceConfig
from ..config.checkpoint import CheckpointConfig
from ..evaluation.choice import chosen_method
from ..evaluation.classifier import MODEL
from ..evaluation.predictions import predict
from ..features.store import FeatureStore
from ..run import Run
from ..runtime.device import resolve_device
from ..runtime.log import log
from .class_order import choose_order
from .run import rebalance


def rebalance_checkpoint(
    path: Path, options: CheckpointConfig, config: RebalanceConfig | None = None
) -> tuple[Run, dict[str, Path]]:
    """Rebalance a checkpoint and write it back in its own format.

    Args:
        path: A .pth or .safetensors file, or a folder with config.json and model.safetensors.
        options: How to read it, and where the result goes.
        config: Method and settings.

    Returns:
        (the run that was made from it, with its results; method -> the file or folder that was written). Where the
        joint classifier is chosen, `options.out` is a copy of the input, and without it nothing is written.

    Raises:
        FileNotFoundError: The checkpoint, or something that it needs, does not exist.
        ValueError: Something cannot be read, or does not fit.
    """
    config = config or RebalanceConfig()
    if options.out is not None and config.method == "all":
        raise ValueError(
            f"--out: got {options.out} with --method all, which writes {len(config.methods)} checkpoints; expected one "
            "method; drop it: they are named <stem>.<method><suffix>"
        )
    known = config.methods if options.out is None and not config.chooses else ()
    for out in [options.out] if options.out else [default_output(path, method) for method in known]:
        check_output(path, out)
    imported = import_checkpoint(
        path, options, choose=functools.partial(choose_order, path, config), force=config.force
    )
    check_above_chance(imported, config)
    rebalance(imported.run, config)
    methods = [chosen_method(store_of(imported, config))] if config.chooses else config.methods
    outputs = {method: options.out or default_output(path, method) for method in methods}
    if options.out is None:
        outputs.pop("joint", None)
    for method, out in outputs.items():
        joint = imported.run.checkpoint("best")
        write_back(imported, joint if method == "joint" else imported.run.method(method) / MODEL, out)
    return imported.run, outputs


def store_of(imported: ImportedCheckpoint, config: RebalanceConfig) -> FeatureStore:
    """Return the features of the run that was made from a checkpoint."""
    return FeatureStore(
        imported.run,
        device=resolve_device(config.device),
        loader=config.loader,
        num_threads=config.num_threads,
        precision=config.feature_precision,
    )


def check_above_chance(imported: ImportedCheckpoint, config: RebalanceConfig) -> None:
    """Raise a ValueError if the checkpoint only guesses: its preprocessing or its class order must be wrong.

    Raises:
        ValueError: The joint top-1 accuracy on val (on train where there is no val) is near chance, or another class
            order explains far more images, and `config.force` is not set.
    """
    store = store_of(imported, config)
    split = store.validation_split
    predictions = predict(store.head, *store.split(split).tensors(store.device))
    num_classes = len(imported.order)
    suspicion = suspect(predictions.classes, predictions.labels, num_classes)
    if suspicion is None:
        return
    message = (
        f"{imported.checkpoint.path}: got {suspicion.accuracy:.1%} right on {split}, where guessing gives "
        f"{1 / num_classes:.1%}; "
    )
    if suspicion.cause == "class order":
        message += (
            "expected the class order of its training: likely another one (or these are not its classes), since "
            f"matching them again explains {suspicion.matched:.1%} of the images; give its order with --classes FILE"
        )
    else:
        message += (
            f"expected more than {suspicion.limit:.1%}: likely the preprocessing is wrong (or these are not its data), "
            "since no other class order explains its answers; give --image-size, --eval-resize, --mean and --std"
        )
    if not config.force:
        raise ValueError(f"{message}, or go on with --force")
    log.warning("%s (--force: going on)", message)
