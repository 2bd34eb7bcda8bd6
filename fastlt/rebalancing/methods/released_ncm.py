"""The released code's nearest class mean in all its variants, scored beside the linear head that represents it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

import numpy as np

from ...evaluation.classifier import Classifier
from ...evaluation.results import Results
from ...evaluation.scoring import accuracies, score
from ...features.arrays import Features
from ...metrics import class_hits, macro_f1
from .ncm import nearest_class_mean_predict

FEATURES = {"un": (False, False), "l2n": (False, True), "cl2n": (True, True)}
"""Raw, normalised, and centred and normalised features -> (center, normalize); the released code's names."""
METRICS: tuple[Literal["l2", "cos"], ...] = ("l2", "cos")


def score_released(classifier: Classifier, train: Features, splits: Iterable[str]) -> Results:
    """Score the six variants, exactly as coded; they have a term that no linear head has, so none of them is written.

    Args:
        classifier: The linear head that represents them; it supplies the other fields of a result.
        train: The training features.
        splits: The splits to classify.
    """
    store = classifier.store
    counts = np.asarray(store.run.data["class_counts"])
    centroids_of = train.tensors(store.device)
    rows = []
    for split in splits:
        features, labels = store.split(split).tensors(store.device)
        linear, truth = score(classifier, split), labels.cpu().numpy()
        for name, (center, normalize) in FEATURES.items():
            for metric in METRICS:
                classes = nearest_class_mean_predict(
                    *centroids_of, features, center=center, normalize=normalize, metric=metric
                )
                predictions = classes.cpu().numpy()
                rows.append(
                    dataclasses.replace(
                        linear,
                        params={"released": f"{name} {metric}"},
                        **accuracies(*class_hits(predictions == truth, truth, len(counts)), counts),  # type: ignore[arg-type]
                        target=None,
                        ece=None,
                        macro_f1=100 * macro_f1(predictions, truth, len(counts)),
                        nll=None,
                    )
                )
    return Results(tuple(rows))
