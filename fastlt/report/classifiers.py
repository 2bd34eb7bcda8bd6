"""The classifiers that the report is about."""

from __future__ import annotations

from ..evaluation.classifier import Classifier, joint_classifier, methods_of, open_classifier
from ..features.store import FeatureStore


def open_classifiers(store: FeatureStore) -> tuple[list[Classifier], list[str]]:
    """Return the joint classifier and every rebalanced one of the run that fits its weights.

    Returns:
        (classifiers, a sentence on every one that was left out).
    """
    found, notes = [joint_classifier(store)], []
    for method in methods_of(store.run):
        try:
            found.append(open_classifier(store, method))
        except (ValueError, OSError) as error:
            notes.append(f"{method.replace('_', ' ')} is left out: {error}.")
    return found, notes
