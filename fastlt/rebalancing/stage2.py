"""Stage 2 of a run: fit rebalancing methods, write the new checkpoints and their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import checkpoint
from ..calibration import fit_temperature, with_temperature
from ..config import METHODS, RebalanceConfig
from ..evaluation import Result, Results, reported_splits, score, score_joint
from ..features import FeatureStore
from ..hardware import resolve_device
from ..prior import apply_target
from ..run import Run
from .batch_norm import reestimated
from .live import check_live, fit_live
from .methods import fit, needs_training_features
from .problem import Problem, Rebalanced
from .selection import cross_validated_hits, with_hits


def rebalance(run: Run, config: RebalanceConfig | None = None) -> Run:
    """Rebalance the classifier of a trained run.

    Writes ``rebalanced/<method>/`` into the run, for every method with ``method="all"``: model.safetensors (the same
    network with another last layer), config.json, and results.json with the joint and the rebalanced accuracies on val
    and test. The same settings give the same files again.

    Args:
        run: The run.
        config: Method and settings.

    Returns:
        The run.

    Raises:
        ValueError, FileNotFoundError: The run's checkpoint or data are missing, or changed since it was trained; or
            settings do not fit them.
    """
    config = config or RebalanceConfig()
    if config.features == "live":
        check_live(config)
    own = FeatureStore(
        run,
        device=resolve_device(config.device),
        loader=config.loader,
        num_threads=config.num_threads,
        precision=config.feature_precision,
    )
    if config.select_on == "test" and "test" not in own.names:
        raise ValueError(f"--select-on: got test; the data of {run.path} have {', '.join(own.names)}: choose val")
    store = reestimated(own, config) if config.reestimate_batch_norm else own
    hits: dict[str, NDArray[np.bool_]] = {}
    if config.features == "live":
        made, store = fit_live(store, config)
    else:
        problem = pose(store, config)
        made = fit(problem, config)
        if config.select_on == "folds":
            hits = cross_validated_hits(problem, config, made, fit)
    known = store.split(config.selection_split).tensors(store.device) if config.temperature else None
    made = {name: finish(each, run, config, known) for name, each in made.items()}
    joint = score_joint(own, reported_splits(own))
    for name, each in made.items():
        write(store, dataclasses.replace(config, method=name), each, compare(joint, store, name, each, hits))
    return run


def pose(store: FeatureStore, config: RebalanceConfig) -> Problem:
    """Gather what a method needs: features of the training images only where it looks at them."""
    train = store.run.config
    return Problem(
        head=store.head,
        train=store.views(config.views) if needs_training_features(config) else (),
        selection=store.split(config.selection_split),
        selected_on=config.select_on,
        class_counts=np.asarray(store.run.data["class_counts"], dtype=np.int64),
        device=store.device,
        stage1={
            "batch_size": train.batch_size,
            "lr": train.lr,
            "weight_decay": train.weight_decay,
            "dataset": train.dataset,
        },
    )


def finish(made: Rebalanced, run: Run, config: RebalanceConfig, known: tuple[Tensor, Tensor] | None) -> Rebalanced:
    """Fold a temperature into the head, then the class frequencies of where it will be used.

    Args:
        made: A method's head.
        run: Its run.
        config: Says what is folded in.
        known: Features and labels to which the temperature is fitted; None leaves it out.
    """
    head, params = made.head, dict(made.params)
    if known is not None:
        params["temperature"] = fit_temperature(head, *known)
        head = with_temperature(head, params["temperature"])
    if config.target != "uniform":
        names, counts = run.data["class_names"], run.data["class_counts"]
        head, _ = apply_target(head, config.target, class_names=names, class_counts=counts)
        params["target"] = config.target
    return dataclasses.replace(made, head=head, params=params)


def write(store: FeatureStore, config: RebalanceConfig, made: Rebalanced, results: Results) -> None:
    """Write the folder of one method."""
    folder = store.run.method(config.method)
    tensors = {key: value for key, value in store.tensors.items() if not key.startswith("fc.")}
    tensors |= {f"fc.{key}": value for key, value in made.head.state_dict().items()}
    metadata = {"weights": store.weights_hash, "method": config.method, "params": made.params}
    checkpoint.save(folder / "model.safetensors", tensors, metadata | {"selected_on": made.selected_on})
    checkpoint.write_json(folder / "config.json", config.to_json())
    checkpoint.write_json(folder / "results.json", results.to_json())


def compare(
    joint: Iterable[Result], store: FeatureStore, method: str, made: Rebalanced, hits: Mapping[str, NDArray[np.bool_]]
) -> Results:
    """Evaluate a rebalanced head beside the joint one; val by cross-validation where its hits are given."""
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
        if before.split == "val" and method in hits:
            counts = np.asarray(store.run.data["class_counts"])
            after = with_hits(after, hits[method], store.split("val").labels, counts)
        rows += [before, after]
    return Results(tuple(rows))


def read_results(run: Run, method: str) -> Results:
    """Read the results of a method, or of every method for ``all``: a split at a time, the joint classifier first."""
    names = METHODS if method == "all" else (method,)
    rows: dict[tuple[str, str], Result] = {}
    for name in names:
        for row in Results.read(run.method(name) / "results.json"):
            rows[row.split, row.method] = row
    splits = list(dict.fromkeys(split for split, _ in rows))
    return Results(tuple(row for split in splits for row in rows.values() if row.split == split))
