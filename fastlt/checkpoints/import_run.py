"""Import somebody's checkpoint as a run: the same weights under our names, with its data and preprocessing."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig
from ..config.checkpoint import CheckpointConfig
from ..data.dataset import LongTailedDataset
from ..data.inspection.identity import DataRecord, describe_data, is_same
from ..data.layouts.identity import class_folders
from ..data.splits import open_splits
from ..files import make_once, owned, write_json
from ..models import HEAD, in_head
from ..models.timm import pretrained_configuration
from ..run import RUNS, Run, environment
from ..runtime.log import log
from . import native
from .class_order import ClassOrder, settle_order
from .formats.shards import bytes_of
from .names import NameMap, match
from .preprocessing import settle_preprocessing
from .reading import TIMM_ARGUMENT, Checkpoint, read_checkpoint
from .recognition import guess_backbone, outline

IMPORTED = RUNS / "adopted"


@dataclass(frozen=True, kw_only=True)
class ImportedCheckpoint:
    """A checkpoint, the run with its weights, the names of its tensors, and the order of its classes."""

    checkpoint: Checkpoint
    run: Run
    names: NameMap
    order: tuple[int, ...]


Chooser = Callable[[TrainConfig, dict[str, Tensor], LongTailedDataset, Sequence[ClassOrder]], ClassOrder]
"""Finds the order of the classes by the train images, given weights under our names with the head in the first one."""


def import_checkpoint(
    path: Path, options: CheckpointConfig, *, choose: Chooser, force: bool = False
) -> ImportedCheckpoint:
    """Make a run folder from a checkpoint, or find the one made from it before with the same settings.

    `runs/adopted/<stem>-<hash>` gets config.json, data.json and checkpoints/best.safetensors, so that everything
    that works on a run works on it; `runs/last` is not changed.

    Args:
        path: A file or a folder.
        options: How to read it.
        choose: Called if the order of the classes cannot be told from names.
        force: Whether to go on with bilinear resizing if the checkpoint needs another interpolation.

    Raises:
        FileNotFoundError: The checkpoint or the data do not exist.
        ValueError: The checkpoint or the data cannot be read, or do not fit each other.
    """
    if options.data_root is None:
        raise ValueError(
            f"--data-root: got none; expected the images that {path} was trained on (train/<class>/* and, kept "
            "from its training, val/<class>/*), or list files; give their folder"
        )
    source = read_checkpoint(path)
    tensors = source.tensors
    backbone = options.backbone or guess_backbone(path, tensors, source.settings, options.head)
    splits = open_splits(options.data_root, lists=options.lists, needs_val=False)
    class_names = splits["train"].class_names
    network = outline(backbone)
    pretrained = network.preprocessing() or timm_preprocessing(path, source.settings.get("args", {}), backbone)
    preprocessing = settle_preprocessing(path, source.settings, pretrained, options, force=force)
    check_pooling(path, network.pooling(), backbone, source.settings.get("config", {}).get("global_pool"))
    names = match(path, tensors, backbone, options.head, len(class_names), preprocessing["image_size"])
    log.info("%s: %s, last layer %s", path, backbone, names.head)
    train = splits["train"]
    folders = class_folders(train)
    orders = settle_order(path, source.settings, options.classes, class_names, folders=folders, content=source.content)
    root, lists = (folder and folder.resolve() for folder in (options.data_root, options.lists))
    config = TrainConfig(dataset="folder", data_root=root, lists=lists, backbone=backbone, **preprocessing)
    order = orders[0].rows
    ours = our_tensors(path, tensors, names, order)
    if len(orders) > 1 and (chosen := choose(config, ours, train, orders).rows) != order:
        order, ours = chosen, our_tensors(path, tensors, names, chosen)
    run = store_run(path, config, describe_data(splits), ours, {"source": str(path.resolve()), "order": list(order)})
    return ImportedCheckpoint(checkpoint=source, run=run, names=names, order=order)


def timm_preprocessing(path: Path, arguments: Mapping[str, Any], backbone: str) -> Mapping[str, Any]:
    """Return timm's configuration of one of our networks if timm's training script has trained it, else nothing."""
    if TIMM_ARGUMENT not in arguments:
        return {}
    config = pretrained_configuration(backbone)
    said = all(arguments.get(name) not in (None, "") for name in ("crop_pct", "mean", "std", "interpolation"))
    if config is None and not said:
        log.warning(
            "%s: timm, which trained it, is not installed; what its args do not say of preprocessing is taken to be "
            "timm's usual; pip install 'fastlt[timm]', or give --eval-resize, --mean, --std and --interpolation",
            path,
        )
    return config or {}


def our_tensors(path: Path, tensors: dict[str, Tensor], names: NameMap, order: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the checkpoint's tensors under our names, in fp32, with the head's rows in the data's order.

    Raises:
        ValueError: A tensor has entries that are not finite.
    """
    result: dict[str, Tensor] = {}
    for ours, theirs in names.names.items():
        value = tensors[theirs]
        value = value.float() if value.is_floating_point() else value
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{path}: got entries of {theirs} that are not finite, as of a run that diverged; expected finite "
                "numbers; give another checkpoint"
            )
        result[ours] = value[list(order)] if in_head(ours) else value
    for ours in names.absent:
        # The head may lack a bias, and old files counters: zeros change nothing
        result[ours] = torch.zeros(len(order)) if ours == f"{HEAD}.bias" else torch.tensor(0)
    return result


def store_run(
    path: Path, config: TrainConfig, data: DataRecord, tensors: dict[str, Tensor], origin: dict[str, Any]
) -> Run:
    """Write the run folder unless it exists and can be read; where its data have moved, it gets their new place."""
    stem = path.name.partition(".")[0] or "checkpoint"
    for folder in sorted(IMPORTED.glob(f"{glob.escape(stem)}-*")):
        if is_of(run := Run(folder), config, data, tensors, origin):
            if (config.data_root, config.lists) != (run.config.data_root, run.config.lists):
                write_json(folder / "config.json", config.to_json() | {"out": str(folder)})
            return Run(folder)
    digest = hashlib.sha256(json.dumps([config.to_json(), data, origin], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(bytes_of(tensors[name]).data)
    run = Run(IMPORTED / f"{stem}-{digest.hexdigest()[:8]}")

    def fill(folder: Path) -> None:
        write_json(folder / "environment.json", environment())
        write_json(folder / "data.json", data)
        native.save(Run(folder).checkpoint("best"), tensors, {"adopted": origin})
        write_json(folder / "config.json", config.to_json() | {"out": str(run.path)})

    if run.path.is_dir() and not is_whole(run):
        with owned(run.path, wait=True):
            fill(run.path)
    make_once(run.path, fill)
    return Run(run.path)


def is_of(run: Run, config: TrainConfig, data: DataRecord, tensors: dict[str, Tensor], origin: dict[str, Any]) -> bool:
    """Return whether a run was made from these weights, settings and data, wherever the data were then."""
    try:
        if run.config.fingerprint() != config.fingerprint() or not is_same(run.data, data):
            return False
        stored, metadata = native.load(run.checkpoint("best"))
    except (FileNotFoundError, ValueError):
        return False
    same_names = metadata == {"adopted": origin} and stored.keys() == tensors.keys()
    return same_names and all(torch.equal(stored[name], value) for name, value in tensors.items())


def is_whole(run: Run) -> bool:
    """Return whether a run that was made from a checkpoint can be read; one of an earlier version may lack files."""
    try:
        native.load(run.checkpoint("best"))
        return bool(run.config and run.data)
    except FileNotFoundError:
        return False
    except ValueError as error:
        log.info("%s: writing it again", error)
        return False


def check_pooling(path: Path, pooling: str | None, backbone: str, expected: Any) -> None:
    """Raise a ValueError if a network does not pool as the checkpoint's config.json says."""
    if expected and pooling is not None and pooling != expected:
        raise ValueError(
            f"{path}: got a config.json that pools features with {repr(expected)[:50]}; expected {pooling!r}, as "
            f"{backbone} does; use fastlt.rebalance_model from Python"
        )
