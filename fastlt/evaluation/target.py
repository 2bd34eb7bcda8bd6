"""A classifier under the class frequencies of a target."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.plugins import names_function
from ..data.dataset import LongTailedDataset
from ..features.arrays import check_finite
from ..features.store import FeatureStore
from ..runtime.log import log
from .classifier import JOINT, Classifier
from .prior import adjust_to_prior, estimate_prior, log_probabilities, source_prior

# Shapes: N images, C classes, D feature width.


def source_frequencies(classifier: Classifier) -> NDArray[np.float64]:
    """Return the class frequencies for which a classifier's probabilities are calibrated, [C]."""
    run = classifier.store.run
    counts = run.data["class_counts"]
    if classifier.method != JOINT and not classifier.params.get(JOINT):
        return np.full(len(counts), 1 / len(counts))
    if names_function(run.config.loss):
        log.warning(
            "--target: the joint classifier of --loss %s is taken as calibrated for the frequencies at which it saw "
            "the classes, as one of cross_entropy would be",
            run.config.loss,
        )
    return source_prior(counts, sampling=run.config.sampling, loss=run.config.loss)


def target_frequencies(classifier: Classifier, target: NDArray[np.float64] | LongTailedDataset) -> NDArray[np.float64]:
    """Return the class frequencies of a target, [C]; the classifier estimates them if they are not given.

    Args:
        classifier: The classifier.
        target: What `read_target` returned.

    Raises:
        ValueError: An image or its features cannot be used.
    """
    if not isinstance(target, LongTailedDataset):
        return target
    features = features_of(classifier.store, target)
    head = classifier.head.to(classifier.store.device)
    return estimate_prior(log_probabilities(head, features), source_frequencies(classifier))


def features_of(store: FeatureStore, images: LongTailedDataset) -> Tensor:
    """Return the features [N, D] of a target's images under a run's backbone; they are not stored.

    Raises:
        ValueError: Features are not finite.
    """
    with store.extractor.computing(), contextlib.closing(store.open_images(images)) as loader:
        features = torch.cat(list(store.extractor.features(loader, len(images))))
    check_finite(features, f"--target: {images.root}")
    return features


def adjust_to_target(classifier: Classifier, spec: str, prior: NDArray[np.float64]) -> Classifier:
    """Return the classifier adjusted to the class frequencies of a target; it has no target folded in yet."""
    head = adjust_to_prior(classifier.head, prior, source_frequencies(classifier))
    if classifier.held_out is not None and "val" in classifier.store.names:
        log.info("%s: under --target val is classified by the choice of all of val, not by folds", classifier.method)
    params = {**classifier.params, "target": spec}
    return dataclasses.replace(classifier, head=head, params=params, prior=prior, held_out=None, cache={})


def check_without_target(classifier: Classifier, spec: str) -> None:
    """Raise a ValueError for a classifier into which a target is folded already."""
    if "target" in classifier.params:
        raise ValueError(
            f"--target: got {spec}, but the {classifier.method} classifier is made for the target "
            f"{classifier.params['target']}; drop --target, or make it again with: "
            f"fastlt rebalance --method {classifier.method}"
        )
