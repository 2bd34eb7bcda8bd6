"""Prepare the first step: check the settings against the run and the processes, and open data and run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from ..checkpoints.start import InitialWeights, read_initial_weights
from ..config import TrainConfig
from ..config.base import check_full_range, is_changeable
from ..config.plugins import code_hash
from ..data.dataset import LongTailedDataset
from ..data.registry import open_data
from ..files import read_json
from ..losses import check_own_loss, own_loss
from ..models import create_model
from ..run import Run, check_free, point_last_at
from ..runtime.device import resolve_precision
from ..runtime.distributed import World
from ..runtime.log import log, name_some
from ..runtime.machine import memory_in_use
from .network import freeze


class OpenedRun(NamedTuple):
    """A run, its resolved settings, its data, and the weights of --init if they were read."""

    run: Run
    config: TrainConfig
    splits: dict[str, LongTailedDataset]
    weights: InitialWeights | None


def open_run(config: TrainConfig, device: torch.device) -> OpenedRun:
    """Make the run folder, or open the folder of the run to resume."""
    config = dataclasses.replace(config, init=config.init and config.init.resolve())
    if config.resume:
        run = Run.open(config.out)
        if config.data_root is not None or config.lists is not None:
            run = run.relocated(config.data_root, config.lists)
        config = resumed_config(config, run)
        check_code(config, run)
        splits = run.open_data()
        check_own_loss(config.loss, torch.from_numpy(splits["train"].class_counts).to(device))
        if not run.checkpoint("last").exists():  # it may have been killed before it was the last one
            point_last_at(run.path)
        return OpenedRun(run, config, splits, None)
    check_full_range("--mean", config.mean)  # not in the settings themselves: earlier runs may have been trained so
    check_full_range("--std", config.std)
    if config.out is not None:
        check_free(config.out)  # again when the run is made, but reading the data can take long
    config = dataclasses.replace(config, precision=resolve_precision(config.precision, device))
    # Parts that the network lacks, weights of another one and a loss that is nowhere are refused before data are read
    model = create_model(config.backbone, 2, config.image_size)
    freeze(model, config.train_only)
    weights = None if config.init is None else read_initial_weights(config.init, config.backbone, model)
    own_loss(config.loss)
    splits = open_data(config)
    check_classes(config, splits)
    check_own_loss(config.loss, torch.from_numpy(splits["train"].class_counts).to(device))
    run = Run.create(config, splits)
    return OpenedRun(run, run.config, splits, weights)


def check_code(config: TrainConfig, run: Run) -> None:
    """Warn if the code of the user's own loss has changed since the run was begun.

    Raises:
        ValueError: It cannot be imported.
    """
    if own_loss(config.loss) is None:
        return
    before = read_json(run.path / "environment.json").get("own_code", {}).get(config.loss)
    if before != code_hash(config.loss):
        log.warning("--loss %s: its file has changed since %s was begun: the run has two losses", config.loss, run.path)


def check_classes(config: TrainConfig, splits: Mapping[str, LongTailedDataset]) -> None:
    """Refuse data with a single class; warn of classes missing from val, and of a batch larger than the data.

    Raises:
        ValueError: There is only one class.
    """
    train, val = splits["train"], splits["val"]
    if train.num_classes < 2:
        raise ValueError(
            f"{train.root}: got {len(train):,} train images of one class ({train.class_names[0]}); expected at least "
            "two classes; check the labels, or the data root (--data-root)"
        )
    absent = [train.class_names[at] for at in np.flatnonzero(val.class_counts == 0).tolist()]
    if absent:
        log.warning(
            "val has no images of %d of %d classes (%s): its accuracies leave these out",
            len(absent),
            train.num_classes,
            name_some(absent),
        )
    if config.batch_size > len(train):
        log.warning(
            "--batch-size %d is more than the %d training images: every step repeats some of them",
            config.batch_size,
            len(train),
        )


def resumed_config(config: TrainConfig, run: Run) -> TrainConfig:
    """Return the run's own settings, with those from `config` that may change.

    Raises:
        ValueError: The request changes a setting that decides the result.
    """
    changes = {}
    for field in dataclasses.fields(TrainConfig):
        before, now = getattr(run.config, field.name), getattr(config, field.name)
        if is_changeable(field):
            changes[field.name] = before if field.name in ("data_root", "lists") else now
        elif before != now and (field.name, now) != ("precision", "auto"):
            flag = f"--{field.name.replace('_', '-')}"
            raise ValueError(
                f"{flag}: got {now}; expected {before}, with which {run.path} was begun; drop it, or start a new run"
            )
    return dataclasses.replace(run.config, **changes)


def check_shares(config: TrainConfig, world: World) -> None:
    """Raise a ValueError unless the batch divides among processes and pieces, and each piece into groups and pairs."""
    pieces = world.size * config.accumulate
    if config.batch_size % pieces:
        flag, what = ("--gpus", f"{world.size} processes") if world.size > 1 else ("--accumulate", "1 process")
        raise ValueError(
            f"{flag}: got {what} x {config.accumulate} pieces; expected a product that divides --batch-size "
            f"{config.batch_size}; choose other numbers"
        )
    piece = config.batch_size // pieces
    if config.bn_group is not None and piece % config.bn_group:
        raise ValueError(
            f"--bn-group: got {config.bn_group}; expected a divisor of the {piece} images that a process takes at once "
            f"(--batch-size {config.batch_size} over {world.size} processes x {config.accumulate} pieces); choose one"
        )
    if config.mixup and piece % 2:
        raise ValueError(
            f"--mixup: got {config.mixup:g} with {piece} images that a process takes at once (--batch-size "
            f"{config.batch_size} over {world.size} processes x {config.accumulate} pieces); expected pairs to blend; "
            "choose a batch size that gives an even number"
        )


def out_of_memory(config: TrainConfig, device: torch.device, world: World) -> str:
    """Return the message for a batch that did not fit: the memory in use, and settings that need less."""
    pieces = f" in {config.accumulate} pieces" if config.accumulate > 1 else ""
    share = config.batch_size // world.size
    divisors = [number for number in range(2 * config.accumulate, share + 1) if share % number == 0]
    half = max(1, share // 2) * world.size
    return (
        f"--batch-size: got {config.batch_size} images of {config.image_size} pixels{pieces}, too many for the memory "
        f"of {device} ({memory_in_use(device)}); "
        + (f"take them in pieces (--accumulate {divisors[0]}), or give " if divisors else "give ")
        + f"--batch-size {half} --lr {config.lr * half / config.batch_size:g}"
        + (", or leave the images out of it (--loader auto)" if config.loader == "device" else "")
    )
