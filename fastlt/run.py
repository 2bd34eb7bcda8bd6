"""The run folder: settings, versions, fingerprints, metrics, checkpoints, features, results, and `runs/last`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .config import TrainConfig
from .config.plugins import code_hash, names_function
from .data.inspection.identity import DataRecord, compare_data, describe_data
from .data.registry import find_changes, open_data
from .files import contents, making, owned, read_json, reserved, sweep, write_json
from .files.writing import partial_name
from .runtime.log import log, name_some
from .runtime.output import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .data.dataset import LongTailedDataset

RUNS = Path("runs")
LAST = "last"
RECORDED_PACKAGES = ("fastlt", "torch", "triton", "nvidia-dali-cuda130", "numpy", "pillow", "timm")
CREATED = {"environment.json": "versions", "data.json": "class_counts", "config.json": "backbone"}
"""What the creation of a run writes, in this order, with a key of each; earlier versions wrote data.json last."""


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Files below `path`: config.json (resolved settings), environment.json (versions, hardware), data.json
    (fingerprints, classes, counts), metrics.jsonl (one record per epoch), checkpoints/{best,last}.safetensors,
    features/, joint/, rebalanced/<method>/, export/, report/, .lock (held while the run is trained). config.json comes
    last when the folder is made.
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
        data = describe_data(splits)
        # Absolute paths, since the run is used from other folders too
        root, lists = (path and path.resolve() for path in (config.data_root, config.lists))
        config = replace(config, data_root=root, lists=lists)
        if config.out is None:
            name = f"{config.backbone.replace(':', '-').replace('/', '-')}-{stamp()}"
            path = begin_unused(RUNS / config.dataset / name, config, data)
        else:
            path = config.out
            check_free(path)
            with owned(path) if path.is_dir() else contextlib.nullcontext():
                check_free(path)  # now that no other process can begin a run in it
                try:
                    begin(path, config, data)
                except FileExistsError:
                    check_free(path)
                    raise
        point_last_at(path)
        return cls(path)

    @classmethod
    def open(cls, path: Path | None = None) -> Run:
        """Open a run.

        Args:
            path: The run folder; by default the run that was started last, `runs/last`.

        Returns:
            The run.

        Raises:
            FileNotFoundError: There is no such folder, or it is not a run.
            ValueError: `path` is a file, or its creation was interrupted.
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
        if contents(path) and is_free(path):
            raise ValueError(
                f"{path}: got a run whose creation was interrupted; expected a complete one; start it again: the same "
                "command without --resume"
            )
        if not is_run(path):
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
    def data(self) -> DataRecord:
        """Classes, training counts, and the identity of every split."""
        source = self.path / "data.json"
        data = read_json(source, DataRecord, remedy="restore the file")
        names, counts = data["class_names"], data["class_counts"]
        if len(names) != len(counts) or not all(0 <= count < 2**63 for count in counts):
            raise ValueError(
                f"{source}: got {len(counts)} class_counts from {min(counts, default=0)} up for {len(names)} "
                "class_names; expected one each, from 0 up; restore the file"
            )
        if "train" not in data["splits"]:
            raise ValueError(f"{source}: got no splits.train; expected the record of a run's data; restore the file")
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
        """Keep other processes from training this run inside a block; what killed ones left goes first.

        Yields:
            None.

        Raises:
            ValueError: Another process is training it.
        """
        with owned(self.path):
            path = self.path.resolve()
            sweep(path.parent, path.name)  # of processes that would have begun this run too
            for folder, _, _ in os.walk(path):
                sweep(Path(folder))
            yield

    def open_data(self) -> dict[str, LongTailedDataset]:
        """Open the data that the run was trained on, where its settings say they are.

        Returns:
            The data by split.

        Raises:
            FileNotFoundError: They are not there any more.
            ValueError: They have changed.
        """
        if opened := self.__dict__.pop("opened", None):  # as `relocated` has just done
            return cast("dict[str, LongTailedDataset]", opened)
        for flag, folder in (("--data-root", self.config.data_root), ("--lists", self.config.lists)):
            if folder is not None and not folder.exists():
                raise FileNotFoundError(
                    f"{self.path}: got no {folder}, where its data were; expected the files and labels that it was "
                    f"trained on; put them back, or give their new place with {flag} DIR"
                )
        splits = open_data(self.config, needs_val="val" in self.data["splits"])
        self.check_data(splits)
        return splits

    @cached_property
    def changes(self) -> Mapping[str, str]:
        """Split -> how its images differ from those that the run was trained on; nothing while they are away."""
        return find_changes(self.data, self.config)

    def relocated(self, data_root: Path | None, lists: Path | None = None) -> Run:
        """Return the run with its data in another place, where later commands will look for them too.

        Args:
            data_root: The new data root; None keeps the one in the run's settings.
            lists: The new folder of list files; by default the one in the settings, or its like in the new data root.

        Raises:
            ValueError, FileNotFoundError: There are no data, or not those that the run was trained on.
        """
        config = moved(self.config, data_root, lists, run=self.path)
        splits = open_data(config, needs_val="val" in self.data["splits"])
        unsure = self.check_data(splits, confirmed=True)
        found = Run(self.path)
        found.__dict__.update(config=config, data=self.data, opened=splits)
        try:
            if unsure:
                for name in unsure:
                    found.data["splits"][name]["content"] = splits[name].content
                write_json(self.path / "data.json", found.data)
            if config != self.config:
                write_json(self.path / "config.json", config.to_json())
        except OSError as error:
            log.warning("%s: the new place of its data is not remembered (%s)", self.path, error.strerror)
        return found

    def check_data(self, splits: Mapping[str, LongTailedDataset], *, confirmed: bool = False) -> tuple[str, ...]:
        """Raise a ValueError unless `splits` are the very data the run was trained on.

        Args:
            splits: The data by split.
            confirmed: Whether to take the user's word where the record of an earlier version cannot tell.

        Returns:
            The splits for which the user's word was taken.

        Raises:
            ValueError: A split is missing, or its files or labels have changed.
        """
        found = compare_data(self.data, splits)
        root = splits["train"].root if "train" in splits else self.config.data_root
        if found.faults:
            name, fault = next(iter(found.faults.items()))
            raise ValueError(
                f"{self.path}: got other {name} data at {root}, {fault}; expected the files and labels that the run "
                "was trained on; restore them, give their place with --data-root DIR, or train a new run"
            )
        if found.unsure:
            names = name_some(found.unsure)
            if not confirmed:
                raise ValueError(
                    f"{self.path}: got {names} data at {root} that were copied, moved or touched; expected files as "
                    "they were, since an earlier version of fastlt recorded this run, with times of files instead of "
                    "their content; if they are the same, say so with --data-root "
                    f"{quoted(self.config.data_root or 'DIR')}"
                )
            log.warning(
                "%s: the record of an earlier version cannot tell whether these are its %s data: only the numbers of "
                "images and of classes were compared",
                self.path,
                names,
            )
        if found.renamed:
            changes = name_some([f"{old} is {new}" for old, new in found.renamed], 3)
            log.warning("%s: classes have other names now (%s); the run keeps its own", self.path, changes)
        return found.unsure


def moved(config: TrainConfig, data_root: Path | None, lists: Path | None, *, run: Path) -> TrainConfig:
    """Return settings with the data in another place; lists that lie in the data root move along.

    Raises:
        ValueError: The data of the settings have no place.
    """
    if config.synthetic:
        raise ValueError(
            f"--data-root: got {data_root or lists} for {run}, whose data are made up (--synthetic); expected none; "
            "drop it"
        )
    before, root = config.data_root, data_root and data_root.resolve()
    if lists is None and root and config.lists and before and config.lists.is_relative_to(before):
        beside = root / config.lists.relative_to(before)
        lists = beside if beside.is_dir() else None
    return replace(config, data_root=root or before, lists=lists.resolve() if lists else config.lists)


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


def own_code(config: TrainConfig) -> dict[str, Any]:
    """Return a record of the user's own loss, if there is one: its name and the hash of its file."""
    return {"own_code": {config.loss: code_hash(config.loss)}} if names_function(config.loss) else {}


def is_free(folder: Path) -> bool:
    """Return whether a run can begin in a folder: it is absent, empty, or left by a creation that was interrupted."""
    found = contents(folder)
    if not CREATED.keys() >= set(found) or {"config.json", "data.json"} <= set(found):
        return False
    try:
        return all(CREATED[name] in read_json(folder / name) for name in found)
    except (ValueError, FileNotFoundError):  # no JSON of ours, or a link to nowhere
        return False


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run, whose creation is over."""
    return (folder / "config.json").is_file() and not is_free(folder)


def check_free(path: Path) -> None:
    """Raise a ValueError unless a run can begin in the folder that --out names."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out: got {path}, a file; expected a new or empty folder; choose another name")
    if not is_free(path):
        raise ValueError(
            f"--out: got {path}, which is not empty; expected a new or empty folder; choose another one, or continue "
            "the run in it with --resume"
        )


def begin(path: Path, config: TrainConfig, data: Mapping[str, Any]) -> None:
    """Fill the folder of a new run, which comes into being whole.

    Where the folder exists already, config.json comes last, which makes it a run.

    Raises:
        FileExistsError: Another process has made the folder meanwhile.
    """
    with making(path) as folder:
        (folder / "config.json").unlink(missing_ok=True)
        write_json(folder / "environment.json", environment() | own_code(config))
        write_json(folder / "data.json", data)
        write_json(folder / "config.json", replace(config, out=path).to_json())


def begin_unused(path: Path, config: TrainConfig, data: Mapping[str, Any]) -> Path:
    """Begin a run in the folder `path` or, if it exists, in the first new one of `path-2`, `path-3` ...

    Returns:
        The path of the run.
    """
    sweep(path.parent)  # what a killed process left for a name of its own
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            if not candidate.exists():
                begin(candidate, config, data)
                return candidate
        except FileExistsError:
            if not candidate.exists():  # otherwise another process was faster
                raise
    raise AssertionError


def point_last_at(path: Path) -> None:
    """Point `runs/last` at `path`, atomically; a folder that cannot be written costs the link, not the run."""
    last = RUNS / LAST
    try:
        with reserved(last, wait=True):
            sweep(RUNS, LAST)
            temporary = partial_name(last)
            temporary.symlink_to(os.path.relpath(path.resolve(), RUNS.resolve()), target_is_directory=True)
            try:
                temporary.replace(last)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s does not point at %s (%s): name the run in later commands", last, path, error.strerror)


def stamp() -> str:
    """Return the local time in the form used in a run's name."""
    return time.strftime("%Y%m%d-%H%M%S")
