"""The run folder: settings, versions, fingerprints, metrics, checkpoints, features, results, and the `last` pointer."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import TrainConfig
from .files import read_json, write_json
from .runtime.log import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .data.dataset import LongTailedDataset

RUNS = Path("runs")
LAST = "last"
RECORDED_PACKAGES = ("fastlt", "torch", "triton", "nvidia-dali-cuda130", "numpy", "pillow", "timm")


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Files below `path`: config.json (settings as resolved), environment.json (versions, hardware), data.json
    (fingerprints, classes, counts), metrics.jsonl (a record an epoch), checkpoints/{best,last}.safetensors,
    features/, joint/, rebalanced/<method>/, report/, .lock (held while it is trained).
    """

    path: Path

    @classmethod
    def create(cls, config: TrainConfig, splits: Mapping[str, LongTailedDataset]) -> Run:
        """Make a new run folder and point `runs/last` at it.

        Raises:
            ValueError: The folder asked for is in use.
        """
        path = config.out or unused(
            RUNS / config.dataset / f"{config.backbone.replace(':', '-').replace('/', '-')}-{stamp()}"
        )
        if path.is_file():
            raise ValueError(f"--out: {path} is a file; choose another name for the run folder")
        if path.exists() and any(path.iterdir()):
            raise ValueError(
                f"--out: {path} exists and is not empty; choose another folder, or continue it with --resume"
            )
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        # Absolute paths: the run is used from anywhere
        root, lists = (place and place.resolve() for place in (config.data_root, config.lists))
        write_json(path / "config.json", replace(config, out=path, data_root=root, lists=lists).to_json())
        write_json(path / "environment.json", environment())
        write_json(path / "data.json", describe_data(splits))
        point_last_at(path)
        return run

    @classmethod
    def open(cls, path: Path | None = None) -> Run:
        """Open a run; None is the last one.

        Raises:
            FileNotFoundError: There is none.
        """
        if path is None:
            path = RUNS / LAST
            if not path.exists():
                raise FileNotFoundError(
                    f"no run yet: {path} does not exist; train one (fastlt train --dataset ...) or name a run folder"
                )
            path = Path(os.path.relpath(path.resolve()))
        if path.is_file():
            raise ValueError(f"{path}: a file; expected a run folder, which `fastlt train` writes")
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such run folder; expected one that `fastlt train` wrote")
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{path}: no run folder: it lacks config.json; expected one that `fastlt train` wrote"
            )
        return cls(path)

    @cached_property
    def config(self) -> TrainConfig:
        """The settings of stage 1, as resolved."""
        source = self.path / "config.json"
        values = read_json(source)
        if not isinstance(values, dict):
            raise ValueError(f"{source}: expected a JSON object of settings, got {type(values).__name__}")
        return TrainConfig.from_json(values, source=str(source))

    @cached_property
    def data(self) -> dict[str, Any]:
        """Classes, training counts, and the fingerprint of every split."""
        data: dict[str, Any] = read_json(self.path / "data.json")
        return data

    def checkpoint(self, name: str) -> Path:
        """Return the path of the checkpoint `best` (by val accuracy) or `last`."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    @property
    def metrics(self) -> Path:
        """The file with a JSON record an epoch."""
        return self.path / "metrics.jsonl"

    def method(self, name: str) -> Path:
        """Return the folder of a classifier: `joint`, or a rebalancing method's."""
        return self.path / "joint" if name == "joint" else self.path / "rebalanced" / name

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training this run meanwhile.

        Raises:
            ValueError: Another one does.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"{self.path}: another process is training this run; wait for its end, or stop it first"
                ) from error
            except OSError as error:  # a file system without locks
                log.info("%s cannot be locked (%s): see that no other process trains this run", self.path, error)
            yield

    def check_data(self, splits: Mapping[str, LongTailedDataset]) -> None:
        """Raise a ValueError unless `splits` are the very data the run was trained on."""
        for name, known in self.data["splits"].items():
            if name not in splits or splits[name].fingerprint != known["fingerprint"]:
                raise ValueError(
                    f"{self.path}: its {name} data is not what it was trained on (files or labels changed); "
                    "restore the data, or train a new run"
                )


def describe_data(splits: Mapping[str, LongTailedDataset]) -> dict[str, Any]:
    """Return what a run must remember of its data."""
    train = splits["train"]
    return {
        "class_names": list(train.class_names),
        "class_counts": train.class_counts.tolist(),
        "splits": {
            name: {"fingerprint": split.fingerprint, "num_images": len(split), "num_skipped": len(split.skipped)}
            for name, split in splits.items()
        },
    }


def environment() -> dict[str, Any]:
    """Return the versions and the hardware that a result depends on."""
    import torch

    versions = {}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def point_last_at(path: Path) -> None:
    """Make `runs/last` name `path`, atomically."""
    RUNS.mkdir(parents=True, exist_ok=True)
    temporary = RUNS / f".{LAST}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(path.resolve(), RUNS.resolve()), target_is_directory=True)
    temporary.replace(RUNS / LAST)


def stamp() -> str:
    """Return the local time as it stands in a run's name."""
    return time.strftime("%Y%m%d-%H%M%S")


def unused(path: Path) -> Path:
    """Make the folder `path`, or the first of `path-2`, `path-3` ... that nobody has; return which."""
    candidate, number = path, 1
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
        else:
            return candidate
