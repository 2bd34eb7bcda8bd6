"""A classifier under the class frequencies of a target."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import LongTailedDataset
from ..runtime.log import log
from .classifier import Classifier
from .prior import adjust_to_prior, resolve_target, source_prior, unlabelled_features


def source_of(classifier: Classifier) -> NDArray[np.float64]:
    """Return the class frequencies under which a classifier's probabilities hold."""
    run = classifier.store.run
    counts = run.data["class_counts"]
    if classifier.method != "joint":
        return np.full(len(counts), 1 / len(counts))
    return source_prior(counts, sampling=run.config.sampling, loss=run.config.loss)


def target_of(classifier: Classifier, target: NDArray[np.float64] | LongTailedDataset) -> NDArray[np.float64]:
    """Return the class frequencies of a target, estimated with this classifier where they are not given."""
    return resolve_target(
        target,
        classifier.head.to(classifier.store.device),
        source=source_of(classifier),
        features=lambda images: unlabelled_features(classifier.store, images),
    )


def adjusted_to_target(classifier: Classifier, spec: str, prior: NDArray[np.float64]) -> Classifier:
    """Adjust a classifier, no target folded into it yet, to the class frequencies of a target."""
    head = adjust_to_prior(classifier.head, prior, source_of(classifier))
    if classifier.held_out is not None:
        log.info("%s: under --target val is classified by what all of val chose, not by folds", classifier.method)
    params = {**classifier.params, "target": spec}
    return dataclasses.replace(classifier, head=head, params=params, prior=prior, held_out=None, known={})


def check_without_target(classifier: Classifier, spec: str) -> None:
    """Raise a ValueError for a classifier into which a target is folded already."""
    if known := classifier.params.get("target"):
        raise ValueError(
            f"--target: got {spec}, but the {classifier.method} classifier is made for the target {known}; evaluate it "
            f"without --target, or make it anew with: fastlt rebalance --method {classifier.method}"
        )
