"""Stage 2 of a run: fit rebalancing methods, write the new checkpoints and their results."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..checkpoints import native
from ..config import RebalanceConfig
from ..config.plugins import names_function
from ..data.inspection.identity import warn_of_overlap
from ..evaluation.calibration import fit_temperature, with_temperature
from ..evaluation.choice import Choice, write_choice
from ..evaluation.classifier import (
    CONFIG,
    EVALUATED,
    FOLDS,
    JOINT,
    MODEL,
    RESULTS,
    Classifier,
    joint_classifier,
    write_held_out,
    write_joint,
)
from ..evaluation.prior import adjust_to_prior, read_target
from ..evaluation.results import Result, Results
from ..evaluation.scoring import reported_splits, score
from ..evaluation.target import adjust_to_target, source_frequencies, target_frequencies
from ..features.store import FeatureStore
from ..files import owned, replacing_set, sweep, write_json
from ..losses import check_own_loss
from ..models import HEAD, LinearHead, in_head
from ..run import Run
from ..runtime.device import resolve_device
from ..runtime.output import quoted
from .choosing import choose, try_methods
from .engine.batch_norm import reestimate
from .engine.live import retrain_live
from .engine.sgd import Retraining
from .methods.registry import REGISTRY, find, uses_training_features
from .problem import Problem, RebalancedHead
from .validation import Validation, selection_of, validate

RELEASED = "released.json"


def rebalance(run: Run, config: RebalanceConfig | None = None) -> Run:
    """Rebalance the classifier of a trained run.

    Writes `rebalanced/<method>/` into the run, for every method with `method="all"`: model.safetensors (the same
    network with another last layer), config.json, and results.json with the joint and the rebalanced accuracies on val
    and test. The same settings give the same files again.

    Where the settings name no method, joint and every method that takes seconds are compared on cross-validated val, or
    by folds of train where there is no val. The best is written, unless it is joint, and `rebalanced/chosen.json` names
    it, with the accuracies of all: `predict`, `evaluate` and `export` use it from then on.

    Args:
        run: The run.
        config: Method and settings; by default the method is chosen.

    Returns:
        The run.

    Raises:
        FileNotFoundError: The run's checkpoint or data are missing.
        ValueError: They changed since the run was trained, settings do not fit them, or another process rebalances the
            run by the same method.
    """
    config = config or RebalanceConfig()
    if config.chooses:
        config = dataclasses.replace(config, select_on="folds")
    live = live_retraining(config) if config.features == "live" else None
    with contextlib.ExitStack() as stack:
        for method in config.methods:  # before anything is computed that another process would overwrite
            stack.enter_context(owned(run.method(method)))
            sweep(run.method(method))
        fit_and_write(run, config, live)
    return run


def fit_and_write(run: Run, config: RebalanceConfig, live: Retraining | None) -> None:
    """Fit a configuration's methods, and write their folders, which this process owns."""
    check_own_loss(config.loss, torch.tensor(run.data["class_counts"]))  # first, so that a mistake costs no features
    joint_store = FeatureStore(
        run,
        device=resolve_device(config.device),
        loader=config.loader,
        num_threads=config.num_threads,
        precision=config.feature_precision,
    )
    if config.select_on == "test" and "test" not in joint_store.names:
        raise ValueError(
            f"--select-on: got test; expected one of {', '.join(joint_store.names)}, the splits of {run.path}; choose "
            "val"
        )
    if config.selection_split not in joint_store.names:
        check_without_val(run, config)
    warn_of_overlap(run.data, reported_splits(joint_store), run=run.path)
    names, counts = run.data["class_names"], run.data["class_counts"]
    target = read_target(
        config.target, class_names=names, class_counts=counts
    )  # read first, so that a mistake costs no training
    store = reestimate(joint_store, config) if config.reestimate_batch_norm else joint_store
    choice = None
    if live is not None:
        result, store = retrain_live(store, live, config)
        results, num_views = {config.method: result}, 0
    else:
        num_views = config.views if uses_training_features(config) else 0
    problem = Problem.of_run(store, config, num_views=num_views)
    validation = validate(problem, place=f"the data of {run.path} ({run.config.data_root})", seed=config.seed)
    joint = joint_classifier(joint_store, validation.joint)
    if validation.joint is not None:
        write_joint(run, validation.joint)
    if live is None and config.chooses:
        trials = try_methods(validation, config)
        choice = choose(joint, trials.classifiers(store, config), config, trials.left_out)
        if choice.method == JOINT:
            check_joint_may_win(config)
            write_choice(run, choice)
            return
        config = dataclasses.replace(config, method=choice.method)
        results = {choice.method: trials.results[choice.method]}
    elif live is None:
        results = validation.fit(config)
    classifiers = [classifier_of(store, name, result, config, validation) for name, result in results.items()]
    if config.target != "uniform":
        prior = target_frequencies(classifiers[0], target)
        classifiers = [adjust_to_target(classifier, config.target, prior) for classifier in classifiers]
    if live is None and (validation.joint is not None or config.select_on == "folds"):
        classifiers = held_out(classifiers, results, config, validation)
    splits = [split for split in reported_splits(joint_store) if split != "train" or validation.joint is not None]
    rows = [score(joint, split) for split in splits]
    unseen = [split for split in splits if split != "train"]
    for classifier in classifiers:
        score_released = find(classifier.method).score_released
        released = None
        if score_released is not None and unseen:
            released = score_released(classifier, problem.train[0], unseen)
        # A function of the user's stays as it was named, so that it is found again
        recorded = config.method if names_function(config.method) else classifier.method
        settings = dataclasses.replace(config, method=recorded)
        write(classifier, settings, score_pair(rows, classifier), released)
    if choice is not None:
        write_choice(run, choice)


def held_out(
    classifiers: Sequence[Classifier],
    results: dict[str, RebalancedHead],
    config: RebalanceConfig,
    validation: Validation,
) -> list[Classifier]:
    """Return the classifiers with predictions by heads that were made without the image.

    Args:
        classifiers: The classifiers, adjusted to a target if the settings name one.
        results: Their heads as the methods made them.
        config: The settings.
        validation: What they are chosen on.
    """
    frequencies = classifiers[0].prior

    def complete(result: RebalancedHead, features: Tensor, labels: Tensor) -> LinearHead:
        head = result.head
        if config.temperature:
            head = with_temperature(head, fit_temperature(head.to(features.device), features, labels))
        if frequencies is None:
            return head
        of_fold = dataclasses.replace(classifiers[0], params=result.params)
        return adjust_to_prior(head, frequencies, source_frequencies(of_fold))

    predictions = validation.held_out(config, results, complete)
    return [dataclasses.replace(each, held_out=predictions[each.method]) for each in classifiers]


def check_without_val(run: Run, config: RebalanceConfig) -> None:
    """Raise a ValueError if the settings need val, which is not there."""
    for flag, given in (
        ("--features live", config.features == "live"),
        ("--reestimate-batch-norm", config.reestimate_batch_norm),
    ):
        if given:
            raise ValueError(
                f"{flag}: got it with {run.path}, which has no val; expected a val split, since folds of train "
                "need features that are computed once; drop the flag, or add val"
            )


def check_joint_may_win(config: RebalanceConfig) -> None:
    """Raise a ValueError if the settings ask for a target, which the joint classifier of a run has not folded in."""
    if config.target != "uniform":
        raise ValueError(
            f"--target: got {config.target}, but on cross-validated val no method is better than the joint classifier, "
            "which stays as it is; expected a method to adjust; name one with --method, or use fastlt evaluate "
            f"--method joint --target {quoted(config.target)}"
        )


def live_retraining(config: RebalanceConfig) -> Retraining:
    """Return how a configuration's method trains on live images.

    Raises:
        ValueError: It does not, or other settings exclude live images.
    """
    method = REGISTRY.get(config.method)
    if method is None or method.live is None:
        names = ", ".join(name for name, each in REGISTRY.items() if each.live is not None)
        raise ValueError(
            f"--features: got live with --method {config.method}; expected one of {names} with live images; choose one "
            "of them, or --features cached"
        )
    if config.loss != "cross_entropy":
        raise ValueError(
            f"--loss: got {config.loss} with --features live; expected cross_entropy; choose --features cached"
        )
    if config.reestimate_batch_norm and config.protocol == "released":
        raise ValueError(
            "--reestimate-batch-norm: got it with --protocol released, in which the statistics drift by themselves; "
            "drop it, or choose --protocol paper"
        )
    grid = max(len(config.lr), 1) * max(len(config.weight_decay), 1)
    if grid > 1 and config.fine_tune != "classifier":
        raise ValueError(
            f"--fine-tune: got {config.fine_tune} with {grid} pairs of --lr and --weight-decay; expected one pair, "
            "since each would need a network of its own; give one"
        )
    if grid > 1 and config.select_on == "folds":
        raise ValueError(
            f"--select-on: got folds with {grid} pairs of --lr and --weight-decay and --features live; expected val; "
            "choose val, or --features cached"
        )
    return method.live


def classifier_of(
    store: FeatureStore, method: str, result: RebalancedHead, config: RebalanceConfig, validation: Validation
) -> Classifier:
    """Return the classifier of a run that a method made, with a temperature folded in if the settings say so.

    Args:
        store: The features that the head was made for.
        method: The method.
        result: Its head.
        config: Says whether to fit a temperature, and by which accuracy settings were chosen.
        validation: What the head was chosen on, to which the temperature is fitted.
    """
    head, params = result.head, dict(result.params)
    if config.temperature:
        params["temperature"] = validation.temperature(method, head)
        head = with_temperature(head, params["temperature"])
    return Classifier(
        method=method,
        head=head,
        store=store,
        path=store.run.method(method) / MODEL,
        params=params,
        selected_on=result.selected_on,
        selection=selection_of(result, config),
    )


def write(classifier: Classifier, config: RebalanceConfig, results: Results, released: Results | None) -> None:
    """Write the folder of one method; what `fastlt evaluate` found about an earlier classifier goes."""
    store = classifier.store
    tensors = {key: value for key, value in store.tensors.items() if not in_head(key)}
    tensors |= {f"{HEAD}.{key}": value for key, value in classifier.head.state_dict().items()}
    metadata = {
        "weights": store.weights_hash,
        "backbone": store.backbone_hash,
        "method": classifier.method,
        "params": classifier.params,
        "selected_on": classifier.selected_on,
        "selection": classifier.selection,
        "prior": None if classifier.prior is None else classifier.prior.tolist(),
    }
    if source := find(classifier.method).source:
        metadata["source"] = source
    with replacing_set(classifier.path.with_name(RESULTS), stale=(FOLDS, RELEASED, *EVALUATED)) as folder:
        native.save(folder / MODEL, tensors, metadata)
        write_json(folder / CONFIG, config.to_json())
        if classifier.held_out is not None:
            write_held_out(folder, classifier.held_out)
        if released is not None:
            write_json(folder / RELEASED, released.to_json())
        write_json(folder / RESULTS, results.to_json())


def score_pair(joint: Iterable[Result], classifier: Classifier) -> Results:
    """Return the results of the joint classifier and of a rebalanced one, split by split."""
    return Results(tuple(row for result in joint for row in (result, score(classifier, result.split))))


def results_of_choice(store: FeatureStore, choice: Choice) -> Results:
    """Return the results of a run's joint classifier and, if another one was chosen, of that, split by split."""
    if choice.method != JOINT:
        return read_results(store.run, [choice.method])
    joint = joint_classifier(store)
    return Results(tuple(score(joint, split) for split in reported_splits(store)))


def read_results(run: Run, methods: Iterable[str]) -> Results:
    """Read the results of methods: a split at a time, the joint classifier first."""
    rows: dict[tuple[str, str], Result] = {}
    for name in methods:
        for row in Results.read(run.method(name) / RESULTS):
            rows[row.split, row.method] = row
    splits = list(dict.fromkeys(split for split, _ in rows))
    return Results(tuple(row for split in splits for row in rows.values() if row.split == split))


def read_released(run: Run, method: str) -> Results | None:
    """Read the results of the released code's variants of a method; None where there are none."""
    path = run.method(method) / RELEASED
    return Results.read(path) if path.is_file() else None
