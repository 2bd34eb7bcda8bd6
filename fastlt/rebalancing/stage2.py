"""Stage 2 of a run: choose and apply a rebalancing method, write the new checkpoint and its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import checkpoint
from ..config import RebalanceConfig
from ..evaluation import Result, Results, reported_splits, score, score_joint
from ..features import FeatureStore
from ..hardware import resolve_device
from ..loggers import log
from ..models import LinearHead
from ..run import Run
from .curve import tau_curve
from .tau import tau_normalize


@dataclass(frozen=True, kw_only=True)
class Rebalanced:
    """A rebalanced head, what it was made with, and the split on which that was chosen (None: it was given)."""

    head: LinearHead
    params: dict[str, Any]
    selected_on: str | None


def rebalance(run: Run, config: RebalanceConfig | None = None) -> Run:
    """Rebalance the classifier of a trained run.

    Writes ``rebalanced/<method>/`` into the run: model.safetensors (the same network with another last layer),
    config.json, and results.json with the joint and the rebalanced accuracies on val and test. The same settings give
    the same files again.

    Args:
        run: The run.
        config: Method and settings.

    Returns:
        The run.

    Raises:
        ValueError, FileNotFoundError: The run's checkpoint or data are missing, or changed since it was trained.
    """
    config = config or RebalanceConfig()
    store = FeatureStore(
        run, device=resolve_device(config.device), loader=config.loader, num_threads=config.num_threads
    )
    for split in store.names:
        store.split(split)
    made = tau_normalization(store, config)
    results = compare(store, config.method, made)
    folder = run.method(config.method)
    path = folder / "model.safetensors"
    tensors = {key: value for key, value in store.tensors.items() if not key.startswith("fc.")}
    tensors |= {f"fc.{key}": value for key, value in made.head.state_dict().items()}
    metadata = {"weights": store.weights_hash, "method": config.method, "params": made.params}
    checkpoint.save(path, tensors, metadata | {"selected_on": made.selected_on})
    checkpoint.write_json(folder / "config.json", config.to_json())
    checkpoint.write_json(folder / "results.json", results.to_json())
    return run


def tau_normalization(store: FeatureStore, config: RebalanceConfig) -> Rebalanced:
    """tau-normalize the head, with tau as given or the best on val."""
    tau, selected_on = config.fixed_tau(), None
    if tau is None:
        features, labels = store.split("val").tensors(store.device)
        counts = store.run.data["class_counts"]
        tau = tau_curve(store.head, features, labels, counts).best(config.select_by).tau
        selected_on = "val"
        log.info("tau = %.3f, the best %s accuracy on val", tau, config.select_by.replace("_", " "))
    return Rebalanced(head=tau_normalize(store.head, tau), params={"tau": tau}, selected_on=selected_on)


def compare(store: FeatureStore, method: str, made: Rebalanced) -> Results:
    """Evaluate the joint and the rebalanced head on val and test."""
    splits = reported_splits(store)
    joint = score_joint(store, splits)
    path = store.run.method(method) / "model.safetensors"
    rows: list[Result] = []
    for before in joint:
        after = score(
            made.head,
            store,
            before.split,
            method=method,
            params=made.params,
            selected_on=made.selected_on,
            path=path,
        )
        rows += [before, after]
    return Results(tuple(rows))
