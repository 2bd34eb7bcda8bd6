"""The classifiers of a run: a linear head, the features that it was made for, and its predictions."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoints import native
from ..config import METHODS, check_choice
from ..config.plugins import is_method_name, names_function
from ..features.store import FeatureStore
from ..files import deciphering, read_arrays, read_json, replacing, replacing_set
from ..files.reading import convert
from ..models import HEAD, LinearHead
from ..run import Run
from ..runtime.output import quoted
from .predictions import Predictions, predict
from .results import plain_name

# Shapes: N samples, C classes.

MODEL, CONFIG, RESULTS, FOLDS = "model.safetensors", "config.json", "results.json", "folds.npz"
"""The files of a rebalanced classifier; the results come last and mark it as whole."""
JOINT = "joint"
"""The name of the run's own classifier; among a method's params: that classifier was the best and is kept as it is."""
EVALUATION = "evaluation.json"
EVALUATED = (EVALUATION, "per_class.*.csv", "per_class.*.json")
"""What `fastlt evaluate` writes about a classifier."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A linear head of a run, the features that it was made for, and where it comes from."""

    method: str
    """joint, or the rebalancing method."""
    head: LinearHead
    store: FeatureStore
    path: Path
    """Its checkpoint."""
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The settings that it was made with."""
    selected_on: str | None = None
    """Where they were chosen: val, folds (of val), train (by folds) or test; None if they were given."""
    selection: str | None = None
    """What was maximised, and where, as in `class_mean on val`; None if nothing was chosen."""
    prior: NDArray[np.float64] | None = None
    """[C] the class frequencies that it is adjusted to; None without a target."""
    held_out: Predictions | None = None
    """Predictions of val, or of train where there is no val, by heads made without the image; None: by `head`."""
    version: tuple[int, int] | None = None
    """The version of the results beside it when it was read; None if it was not read."""
    cache: dict[str, Predictions] = dataclasses.field(default_factory=dict)
    """Split -> predictions made so far."""

    @property
    def label(self) -> str:
        """The name, for readers."""
        return plain_name(self.method)

    def predictions(self, split: str) -> Predictions:
        """Return the predictions of a split, computed once; cross-validated ones where folds of it were used."""
        if self.held_out is not None and split == self.store.validation_split:
            return self.held_out
        if split == "train":
            run, flag = self.store.run.path, "" if self.method == JOINT else f" --method {self.method}"
            raise ValueError(
                f"{run}: got no val split, and no folds of train, all of which the network has learned; expected "
                f"predictions of {self.method} by folds; make them with: fastlt rebalance {quoted(run)}{flag}"
            )
        if split not in self.cache:
            device = self.store.device
            self.cache[split] = predict(self.head.to(device), *self.store.split(split).tensors(device))
        return self.cache[split]


def joint_classifier(store: FeatureStore, held_out: Predictions | None = None) -> Classifier:
    """Return the run's own head, as stage 1 left it.

    Args:
        store: The run's features.
        held_out: Where there is no val, predictions by folds of train; by default those of the latest rebalancing.
    """
    folder = store.run.method(JOINT)
    if held_out is None and store.validation_split == "train" and (folder / FOLDS).is_file():
        held_out = read_held_out(folder, remedy=f"make it again with: fastlt rebalance {quoted(store.run.path)}")
    return Classifier(method=JOINT, head=store.head, store=store, path=store.checkpoint, held_out=held_out)


def open_classifier(store: FeatureStore, method: str, *, flag: str = "--method") -> Classifier:
    """Read a classifier of a run: the joint one, or a rebalanced one from its folder.

    Raises:
        FileNotFoundError: The run has no classifier of that method.
        ValueError: There is no such method; or it was made from other weights, its making was interrupted, or it cannot
            be read.
    """
    method = classifier_name(store.run, method)
    if method == "joint":
        return joint_classifier(store)
    path = store.run.method(method) / MODEL
    if not path.is_file() and not names_function(method):
        check_choice(flag, method, tuple(dict.fromkeys(("joint", *METHODS, *methods_of(store.run)))))
    again = f"make it again with: fastlt rebalance {quoted(store.run.path)} --method {method}"
    if not path.is_file():
        raise FileNotFoundError(
            f"{flag}: got {method}, but {store.run.path} has no {method} classifier yet; make it with: fastlt "
            f"rebalance {quoted(store.run.path)} --method {method}"
        )
    mark = path.with_name(RESULTS)
    with whole(mark, again):
        version = version_of(mark)
        tensors, metadata = native.load(path)
        with deciphering(path, expected="a classifier of this run", remedy=again):
            record = convert(metadata, ClassifierRecord)
        if record.weights != store.weights_hash:
            raise ValueError(f"{path}: got a classifier of other weights than {store.checkpoint}; {again}")
        prior = None if record.prior is None else np.array(record.prior)
        if prior is not None and (len(prior) != len(store.run.data["class_counts"]) or not np.isfinite(prior).all()):
            raise ValueError(f"{path}: got a prior of {len(prior)} numbers; expected one a class, finite; {again}")
        by_folds = record.selected_on == "folds" or (path.parent / FOLDS).is_file()
        held_out = read_held_out(path.parent, remedy=again) if by_folds else None
    return Classifier(
        method=method,
        head=read_head(path, tensors, store, again),
        # Live training and --reestimate-batch-norm change the backbone
        store=store.with_backbone(tensors, method, backbone_hash=record.backbone),
        path=path,
        params=record.params,
        selected_on=record.selected_on,
        selection=record.selection,
        prior=prior,
        held_out=held_out,
        version=version,
    )


@dataclasses.dataclass(frozen=True)
class ClassifierRecord:
    """What a rebalanced classifier's checkpoint says about it; `Classifier` explains the fields."""

    weights: str = ""
    backbone: str | None = None
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    selected_on: str | None = None
    selection: str | None = None
    prior: list[float] | None = None


def version_of(mark: Path) -> tuple[int, int] | None:
    """Return what changes whenever a file is written anew; None where there is none."""
    try:
        found = mark.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextlib.contextmanager
def whole(mark: Path, again: str) -> Iterator[None]:
    """Read a classifier's folder inside a block.

    Raises:
        ValueError: It lacks its mark, the results that are written last, or another process writes it meanwhile.
    """
    before = version_of(mark)
    if before is None:
        raise ValueError(
            f"{mark.parent}: got no {mark.name}, so its making was interrupted or is under way; expected a whole "
            f"classifier; {again}"
        )
    yield
    if version_of(mark) != before:
        raise ValueError(
            f"{mark.parent}: got a classifier that another process writes at this moment; expected one at rest; run "
            "the command again"
        )


def read_head(path: Path, tensors: Mapping[str, Tensor], store: FeatureStore, again: str) -> LinearHead:
    """Return the linear head among a checkpoint's tensors.

    Raises:
        ValueError: There is none, or it is not of the shape of the run's own.
    """
    weight, bias = tensors.get(f"{HEAD}.weight"), tensors.get(f"{HEAD}.bias")
    expected = list(store.head.weight.shape)
    found = [tensor for tensor in (weight, bias) if tensor is not None]
    shapes = [list(tensor.shape) for tensor in found]
    right = shapes == [expected, expected[:1]][: len(found)] and all(map(torch.is_floating_point, found))
    if weight is None or not right:
        kinds = ", ".join(f"{list(tensor.shape)} {tensor.dtype}" for tensor in found) or "no tensors"
        raise ValueError(
            f"{path}: got a last layer of {kinds}; expected {expected} in floating point, as in {store.checkpoint}; "
            f"{again}"
        )
    return LinearHead(weight, bias)


def methods_of(run: Run) -> list[str]:
    """Return the methods of a run's rebalanced classifiers, also of those whose making was interrupted."""
    folder = run.method("tau").parent
    made = {path.parent.name for path in folder.glob(f"*/{MODEL}")} if folder.is_dir() else set()
    own = sorted(name for name in made if name not in METHODS and is_method_name(name))
    return [*(name for name in METHODS if name in made), *own]


def classifier_name(run: Run, text: str) -> str:
    """Return the name of a run's classifier that a setting names: itself, or the one that `module:function` made."""
    if not names_function(text):
        return text
    for name in methods_of(run):
        with contextlib.suppress(ValueError, FileNotFoundError):
            if read_json(run.method(name) / CONFIG).get("method") == text:
                return name
    return text


def write_held_out(folder: Path, predictions: Predictions) -> None:
    """Write the folds' predictions beside a classifier."""
    with replacing(folder / FOLDS) as temporary, temporary.open("wb") as file:
        np.savez(file, **predictions._asdict())


def write_joint(run: Run, predictions: Predictions) -> None:
    """Write predictions by folds of train for the joint classifier; what was found about other ones goes."""
    folder = run.method(JOINT)
    with contextlib.suppress(FileNotFoundError, ValueError):
        if all(map(np.array_equal, read_held_out(folder, remedy=""), predictions)):
            return
    with replacing_set(folder / FOLDS, stale=EVALUATED) as partial:
        write_held_out(partial, predictions)


def read_held_out(folder: Path, *, remedy: str) -> Predictions:
    """Read the folds' predictions of val, or of train where there is no val.

    Raises:
        FileNotFoundError: There are none.
        ValueError: The file is damaged.
    """
    kinds = {"labels": "<i8", "classes": "<i8", "confidences": "<f8", "log_likelihoods": "<f8"}
    arrays = read_arrays(folder / FOLDS, kinds, remedy=remedy)
    if len({array.shape for array in arrays.values()}) > 1 or arrays["labels"].ndim != 1:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise ValueError(f"{folder / FOLDS}: got {shapes}; expected one number each for every image; {remedy}")
    return Predictions(**arrays)
