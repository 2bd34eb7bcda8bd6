"""Stage 2 of a run: fit rebalancing methods, write the new checkpoints and their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from torch import Tensor

from ..checkpoints import native
from ..config import METHODS, RebalanceConfig
from ..evaluation.calibration import fit_temperature, with_temperature
from ..evaluation.classifier import Classifier, joint_classifier, write_held_out
from ..evaluation.prior import adjust_to_prior, read_target
from ..evaluation.results import Result, Results
from ..evaluation.scoring import reported_splits, score
from ..evaluation.target import adjusted_to_target, target_of
from ..features.store import FeatureStore
from ..files import write_json
from ..models import HEAD, LinearHead, in_head
from ..run import Run
from ..runtime.device import resolve_device
from .engine.batch_norm import reestimated
from .engine.folds import cross_validated
from .engine.live import check_live, fit_live
from .methods.registry import fit, needs_training_features
from .methods.released_ncm import RELEASED, score_released
from .problem import Problem, Rebalanced


def rebalance(run: Run, config: RebalanceConfig | None = None) -> Run:
    """Rebalance the classifier of a trained run.

    Writes `rebalanced/<method>/` into the run, for every method with `method="all"`: model.safetensors (the same
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
    names, counts = run.data["class_names"], run.data["class_counts"]
    target = read_target(config.target, class_names=names, class_counts=counts)  # a mistake is found before the work
    store = reestimated(own, config) if config.reestimate_batch_norm else own
    problem = None
    if config.features == "live":
        made, store = fit_live(store, config)
    else:
        problem = make_problem(store, config)
        made = fit(problem, config)
    selection = store.split(config.selection_split).tensors(store.device)
    classifiers = [classifier_of(store, name, each, config, selection) for name, each in made.items()]
    if config.target != "uniform":
        prior = target_of(classifiers[0], target)
        classifiers = [adjusted_to_target(each, config.target, prior) for each in classifiers]
    if problem is not None and config.select_on == "folds":
        frequencies = classifiers[0].prior

        def complete(head: LinearHead, known: tuple[Tensor, Tensor]) -> LinearHead:
            if config.temperature:
                head, _ = with_fitted_temperature(head, known)
            uniform = np.full(len(counts), 1 / len(counts))
            return head if frequencies is None else adjust_to_prior(head, frequencies, uniform)

        held_out = cross_validated(problem, config, made, fit, complete)
        classifiers = [dataclasses.replace(each, held_out=held_out[each.method]) for each in classifiers]
    joint = [score(joint_classifier(own), split) for split in reported_splits(own)]
    for each in classifiers:
        write(each, dataclasses.replace(config, method=each.method), score_pair(joint, each))
        if each.method == "ncm" and problem is not None:
            released = score_released(each, problem.train[0], reported_splits(own))
            write_json(each.path.parent / RELEASED, released.to_json())
    return run


def make_problem(store: FeatureStore, config: RebalanceConfig) -> Problem:
    """Gather what a method needs: features of the training images only where it looks at them."""
    train = store.run.config
    return Problem(
        head=store.head,
        train=store.views(config.views) if needs_training_features(config) else (),
        selection=store.split(config.selection_split),
        selected_on=config.select_on,
        class_counts=np.asarray(store.run.data["class_counts"], dtype=np.int64),
        device=store.device,
        stage1={"batch_size": train.batch_size, "dataset": train.dataset},
    )


def classifier_of(
    store: FeatureStore, method: str, made: Rebalanced, config: RebalanceConfig, selection: tuple[Tensor, Tensor]
) -> Classifier:
    """Return the classifier of a run that a method made, with a temperature folded in if that is asked for.

    Args:
        store: The features that it was made for.
        method: The method.
        made: Its head.
        config: Says how it was chosen.
        selection: Features and labels to which the temperature is fitted.
    """
    head, params = made.head, dict(made.params)
    if config.temperature:
        head, params["temperature"] = with_fitted_temperature(head, selection)
    return Classifier(
        method=method,
        head=head,
        store=store,
        path=store.run.method(method) / "model.safetensors",
        params=params,
        selected_on=made.selected_on,
        selection=made.selected_on and f"{config.select_by} on {made.selected_on}",
    )


def with_fitted_temperature(head: LinearHead, known: tuple[Tensor, Tensor]) -> tuple[LinearHead, float]:
    """Return the head at the temperature that fits features and labels, and that temperature."""
    temperature = fit_temperature(head.to(known[0].device), *known)
    return with_temperature(head, temperature), temperature


def write(classifier: Classifier, config: RebalanceConfig, results: Results) -> None:
    """Write the folder of one method."""
    store, folder = classifier.store, classifier.path.parent
    tensors = {key: value for key, value in store.tensors.items() if not in_head(key)}
    tensors |= {f"{HEAD}.{key}": value for key, value in classifier.head.state_dict().items()}
    metadata = {
        "weights": store.weights_hash,
        "method": classifier.method,
        "params": classifier.params,
        "selected_on": classifier.selected_on,
        "selection": classifier.selection,
        "prior": None if classifier.prior is None else classifier.prior.tolist(),
    }
    native.save(classifier.path, tensors, metadata)
    write_json(folder / "config.json", config.to_json())
    write_json(folder / "results.json", results.to_json())
    write_held_out(folder, classifier.held_out)


def score_pair(joint: Iterable[Result], classifier: Classifier) -> Results:
    """Evaluate a rebalanced classifier beside the joint one."""
    return Results(tuple(row for before in joint for row in (before, score(classifier, before.split))))


def read_results(run: Run, method: str) -> Results:
    """Read the results of a method, or of every method for `all`: a split at a time, the joint classifier first."""
    names = METHODS if method == "all" else (method,)
    rows: dict[tuple[str, str], Result] = {}
    for name in names:
        for row in Results.read(run.method(name) / "results.json"):
            rows[row.split, row.method] = row
    splits = list(dict.fromkeys(split for split, _ in rows))
    return Results(tuple(row for split in splits for row in rows.values() if row.split == split))


def read_released(run: Run) -> Results:
    """Read the results of the released code's nearest class mean."""
    return Results.read(run.method("ncm") / RELEASED)
