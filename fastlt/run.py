"""The run folder: settings, versions, fingerprints, metrics, checkpoints, features, results, and `runs/last`."""

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

    Files below `path`: config.json (resolved settings), environment.json (versions, hardware), data.json
    (fingerprints, classes, counts), metrics.jsonl (one record per epoch), checkpoints/{best,last}.safetensors,
    features/, joint/, rebalanced/<method>/, report/, .lock (held while the run is trained).
    """

    path: Path

    @classmethod
    def create(cls, config: TrainConfig, splits: Mapping[str, LongTailedDataset]) -> Run:
        """Make a new run folder and point `runs/last` at it.

        Args:
            config: The resolved settings; `out` names the folder, by default `runs/<dataset>/<backbone>-<time>`.
            splits: The data by split, with `train` among them.

        Returns:
            The run, without checkpoints.

        Raises:
            ValueError: `config.out` is a file, or a folder that is not empty.
        """
        path = config.out or unused(
            RUNS / config.dataset / f"{config.backbone.replace(':', '-').replace('/', '-')}-{stamp()}"
        )
        if path.is_file():
            raise ValueError(f"--out: got {path}, a file; expected a new or empty folder; choose another name")
        if path.exists() and any(path.iterdir()):
            raise ValueError(
                f"--out: got {path}, which is not empty; expected a new or empty folder; choose another one, or "
                "continue the run in it with --resume"
            )
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        # Absolute paths, since the run is used from other folders too
        root, lists = (path and path.resolve() for path in (config.data_root, config.lists))
        write_json(path / "config.json", replace(config, out=path, data_root=root, lists=lists).to_json())
        write_json(path / "environment.json", environment())
        write_json(path / "data.json", describe_data(splits))
        point_last_at(path)
        return run

    @classmethod
    def open(cls, path: Path | None = None) -> Run:
        """Open a run.

        Args:
            path: The run folder; by default the run that was started last, `runs/last`.

        Returns:
            The run.

        Raises:
            FileNotFoundError: There is no such folder, or it is not a run.
            ValueError: `path` is a file.
        """
        if path is None:
            path = RUNS / LAST
            if not path.exists():
                raise FileNotFoundError(
                    f"RUN: got none, and there is no {path}; expected a run folder; name one, or train one first "
                    "(fastlt train --dataset ...)"
                )
            path = Path(os.path.relpath(path.resolve()))
        if path.is_file():
            raise ValueError(f"{path}: got a file; expected a run folder; give one that `fastlt train` wrote")
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path}: no such folder; expected a run folder; give one that `fastlt train` wrote"
            )
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{path}: got a folder without config.json; expected a run folder; give one that `fastlt train` wrote"
            )
        return cls(path)

    @cached_property
    def config(self) -> TrainConfig:
        """The resolved settings of stage 1."""
        source = self.path / "config.json"
        return TrainConfig.from_json(read_json(source), source=str(source))

    @cached_property
    def data(self) -> dict[str, Any]:
        """Classes, training counts, and the fingerprint of every split."""
        source = self.path / "data.json"
        data = read_json(source)
        if missing := [key for key in ("class_names", "class_counts", "splits") if key not in data]:
            raise ValueError(f"{source}: got no {missing[0]}; expected the record of a run's data; restore the file")
        return data

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint, which need not exist.

        Args:
            name: `best` (highest val accuracy) or `last`.
        """
        return self.path / "checkpoints" / f"{name}.safetensors"

    @property
    def metrics(self) -> Path:
        """The file with one JSON record per epoch."""
        return self.path / "metrics.jsonl"

    def method(self, name: str) -> Path:
        """Return the folder of a classifier, which need not exist.

        Args:
            name: `joint`, or a rebalancing method.
        """
        return self.path / "joint" if name == "joint" else self.path / "rebalanced" / name

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training this run inside a block.

        Yields:
            None.

        Raises:
            ValueError: Another process is training it.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"{self.path}: got a run that another process is training; expected a free one; wait for that "
                    "process, or stop it"
                ) from error
            except OSError as error:  # a file system without locks
                log.info("%s cannot be locked (%s): make sure that no other process trains this run", self.path, error)
            yield

    def check_data(self, splits: Mapping[str, LongTailedDataset]) -> None:
        """Raise a ValueError unless `splits` are the very data the run was trained on.

        Args:
            splits: The data by split.

        Raises:
            ValueError: A split is missing, or its files or labels have changed.
        """
        for name, record in self.data["splits"].items():
            if name not in splits or splits[name].fingerprint != record["fingerprint"]:
                raise ValueError(
                    f"{self.path}: got other {name} data; expected the files and labels that the run was trained on; "
                    "restore them, or train a new run"
                )


def describe_data(splits: Mapping[str, LongTailedDataset]) -> dict[str, Any]:
    """Return the record of a run's data: classes, training counts, and each split's fingerprint."""
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
    """Return the versions and the hardware on which a result depends."""
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
        "num_cpus": os.cpu_count(),  # all of the machine's, even if this process may use fewer
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def point_last_at(path: Path) -> None:
    """Point `runs/last` at `path`, atomically."""
    RUNS.mkdir(parents=True, exist_ok=True)
    temporary = RUNS / f".{LAST}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(path.resolve(), RUNS.resolve()), target_is_directory=True)
    temporary.replace(RUNS / LAST)


def stamp() -> str:
    """Return the local time in the form used in a run's name."""
    return time.strftime("%Y%m%d-%H%M%S")


def unused(path: Path) -> Path:
    """Make the folder `path` or, if it exists, the first new one of `path-2`, `path-3` ...; return its path."""
    candidate, number = path, 1
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
        else:
            return candidate
