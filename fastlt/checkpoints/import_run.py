"""Take in somebody's checkpoint as a run: the same weights under our names, its data and preprocessing settled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig
from ..config.adopt import AdoptConfig
from ..data.splits import open_splits
from ..files import write_json
from ..models import HEAD, in_head
from ..run import RUNS, Run, describe_data, environment
from ..runtime.log import log
from . import native
from .class_order import settle_order
from .names import NameMap, match
from .preprocessing import settle_preprocessing
from .reading import Checkpoint, read_checkpoint
from .recognition import guess_backbone, outline

ADOPTED = RUNS / "adopted"


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A checkpoint, the run that has its weights, the names of its tensors, and the order of its classes."""

    checkpoint: Checkpoint
    run: Run
    names: NameMap
    order: tuple[int, ...]


def adopt(path: Path, asked: AdoptConfig, *, force: bool = False) -> Adopted:
    """Make a run folder of a checkpoint, or find the one that was made of it before with the same settings.

    `runs/adopted/<stem>-<hash>` gets config.json, data.json and checkpoints/best.safetensors, so that everything
    that works on a run works on it; `runs/last` stays.

    Raises:
        FileNotFoundError: The checkpoint or the data do not exist.
        ValueError: They cannot be read, or do not fit each other.
    """
    if asked.data_root is None:
        raise ValueError(
            f"--data-root: missing; to rebalance the checkpoint {path} fastlt needs the images it was trained on "
            "(train/<class>/*, val/<class>/*), or list files"
        )
    source = read_checkpoint(path)
    tensors = source.tensors
    backbone = asked.backbone or guess_backbone(path, tensors, source.settings)
    splits = open_splits(asked.data_root, lists=asked.lists)
    class_names = splits["train"].class_names
    network = outline(backbone)
    preprocessing = settle_preprocessing(path, source.settings, network.preprocessing(), asked, force=force)
    check_pooling(path, network.pooling(), backbone, source.settings.get("config", {}).get("global_pool"))
    names = match(path, tensors, backbone, asked.head, len(class_names), preprocessing["image_size"])
    log.info("%s: %s, last layer %s", path, backbone, names.head)
    order = settle_order(path, source.settings, asked.classes, class_names)
    root, lists = (place and place.resolve() for place in (asked.data_root, asked.lists))
    config = TrainConfig(dataset="folder", data_root=root, lists=lists, backbone=backbone, **preprocessing)
    ours = our_tensors(path, tensors, names, order)
    run = store_run(path, config, describe_data(splits), ours, {"source": str(path.resolve()), "order": list(order)})
    return Adopted(checkpoint=source, run=run, names=names, order=order)


def our_tensors(path: Path, tensors: dict[str, Tensor], names: NameMap, order: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the checkpoint's tensors under our names, in fp32, with the head's rows in the data's order.

    Raises:
        ValueError: One has entries that are not finite.
    """
    made: dict[str, Tensor] = {}
    for ours, theirs in names.names.items():
        value = tensors[theirs]
        value = value.float() if value.is_floating_point() else value
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {theirs} has entries that are not finite; it comes from a run that diverged")
        made[ours] = value[list(order)] if in_head(ours) else value
    for ours in names.absent:
        # A bias that the head lacks, or counters that old files lack: zeros change nothing
        made[ours] = torch.zeros(len(order)) if ours == f"{HEAD}.bias" else torch.tensor(0)
    return made


def store_run(
    path: Path, config: TrainConfig, data: dict[str, Any], tensors: dict[str, Tensor], origin: dict[str, Any]
) -> Run:
    """Write the run folder unless it is there."""
    digest = hashlib.sha256(json.dumps([config.to_json(), data, origin], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    run = Run(ADOPTED / f"{path.name.partition('.')[0] or 'checkpoint'}-{digest.hexdigest()[:8]}")
    if not run.checkpoint("best").is_file():
        write_json(run.path / "environment.json", environment())
        write_json(run.path / "data.json", data)
        write_json(run.path / "config.json", config.to_json() | {"out": str(run.path)})
        # The checkpoint comes last: a folder with it is whole
        native.save(run.checkpoint("best"), tensors, {"adopted": origin})
    return run


def check_pooling(path: Path, pooling: str | None, backbone: str, wanted: Any) -> None:
    """Raise a ValueError if a network pools in another way than the checkpoint's config.json says."""
    if wanted and pooling is not None and pooling != wanted:
        raise ValueError(
            f"{path}: its config.json pools features with {wanted!r}, but {backbone} with {pooling!r}; use "
            "fastlt.rebalance_model from Python"
        )
