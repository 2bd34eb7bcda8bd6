"""The classifiers of a run: a linear head, the features that it was made for, and its predictions."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoints import native
from ..config import METHODS
from ..features.store import FeatureStore
from ..files import replacing
from ..models import HEAD, LinearHead
from ..run import Run
from .predictions import Predictions, predict

# Shapes: N samples, C classes.

FOLDS = "folds.npz"


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
    """Where they were chosen: val, folds (of val) or test; None if they were given."""
    selection: str | None = None
    """What was maximised, and where, as in `class_mean on val`; None if nothing was chosen."""
    prior: NDArray[np.float64] | None = None
    """[C] the class frequencies that it is adjusted to; None without a target."""
    held_out: Predictions | None = None
    """Predictions of every val image by heads chosen without it; None if settings were chosen on all of val."""
    cache: dict[str, Predictions] = dataclasses.field(default_factory=dict)
    """Split -> predictions made so far."""

    @property
    def label(self) -> str:
        """The name, for readers."""
        return self.method.replace("_", " ")

    def predictions(self, split: str) -> Predictions:
        """Return the predictions of a split, computed once; on val, cross-validated ones where folds were used."""
        if split == "val" and self.held_out is not None:
            return self.held_out
        if split not in self.cache:
            device = self.store.device
            self.cache[split] = predict(self.head.to(device), *self.store.split(split).tensors(device))
        return self.cache[split]


def joint_classifier(store: FeatureStore) -> Classifier:
    """Return the run's own head, as stage 1 left it."""
    return Classifier(method="joint", head=store.head, store=store, path=store.checkpoint)


def open_classifier(store: FeatureStore, method: str, *, flag: str = "--method") -> Classifier:
    """Read a classifier of a run: the joint one, or a rebalanced one from its checkpoint.

    Raises:
        FileNotFoundError: The run has no classifier of that method.
        ValueError: It was made from other weights, or cannot be read.
    """
    if method == "joint":
        return joint_classifier(store)
    folder = store.run.method(method)
    path = folder / "model.safetensors"
    again = f"fastlt rebalance {store.run.path} --method {method}"
    if not path.is_file():
        raise FileNotFoundError(
            f"{flag}: got {method}, but {store.run.path} has no {method} classifier yet; make it with: {again}"
        )
    tensors, metadata = native.load(path)
    if metadata.get("weights") != store.weights_hash:
        raise ValueError(
            f"{path}: got a classifier of other weights than {store.checkpoint}; make it again with: {again}"
        )
    if f"{HEAD}.weight" not in tensors:
        raise ValueError(f"{path}: got no fc.weight; expected a classifier of this run; make it again with: {again}")
    prior = metadata.get("prior")
    return Classifier(
        method=method,
        head=LinearHead(tensors[f"{HEAD}.weight"], tensors.get(f"{HEAD}.bias")),
        # Live training and --reestimate-batch-norm change the backbone
        store=store.with_backbone(tensors, method, backbone_hash=metadata.get("backbone")),
        path=path,
        params=metadata.get("params", {}),
        selected_on=metadata.get("selected_on"),
        selection=metadata.get("selection"),
        prior=None if prior is None else np.array(prior),
        held_out=read_held_out(folder) if metadata.get("selected_on") == "folds" else None,
    )


def methods_of(run: Run) -> list[str]:
    """Return the methods of a run's rebalanced classifiers."""
    return [name for name in METHODS if (run.method(name) / "model.safetensors").is_file()]


def default_method(run: Run, method: str = "") -> str:
    """Return `method`; if empty, that of the run's only rebalanced classifier, or `joint` if there is none.

    Raises:
        ValueError: The run has several rebalanced classifiers.
    """
    methods = methods_of(run)
    if not method and len(methods) > 1:
        raise ValueError(
            f"--method: got none, but {run.path} has several classifiers; choose one of joint, {', '.join(methods)}"
        )
    return method or (methods[0] if methods else "joint")


def write_held_out(folder: Path, predictions: Predictions | None) -> None:
    """Write the folds' predictions of val beside a classifier, or remove those of an earlier one."""
    path = folder / FOLDS
    if predictions is None:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **predictions._asdict())


def read_held_out(folder: Path) -> Predictions | None:
    """Read the folds' predictions of val; None where there are none.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / FOLDS
    if not path.is_file():
        return None
    try:
        with np.load(path) as arrays:
            return Predictions(**arrays)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: got a damaged file; expected the predictions of folds; delete it, and make the "
            "classifier again with fastlt rebalance"
        ) from error
