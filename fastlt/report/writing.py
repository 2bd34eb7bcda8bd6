"""Collects the contents of a report, and writes its figures and its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..evaluation.classifier import Classifier, joint_classifier, methods_of, open_classifier
from ..evaluation.results import Results
from ..evaluation.scoring import reported_splits, score
from ..features.store import FeatureStore
from ..files import owned, replacing_set
from ..metrics import shot_groups
from ..run import Run
from .figures import Material, draw_figures
from .page import PAGE, write_page
from .worst import worst_classes


def write_report(run: Run, store: FeatureStore) -> tuple[Path, Results]:
    """Write `report/index.html` and its figures into the run: the joint classifier beside every rebalanced one.

    The page has a sentence in place of anything missing (a split, the images, the records of training, a method).

    Args:
        run: The run.
        store: Its features.

    Returns:
        (the path of the page, the results in it).

    Raises:
        ValueError: Another process writes the report.
    """
    page = run.path / "report" / PAGE
    with owned(page.parent), replacing_set(page, stale=("*.png",)) as folder:
        results = write_into(folder, run, store)
    return page, results


def write_into(folder: Path, run: Run, store: FeatureStore) -> Results:
    """Write the page and its figures into an empty folder, and return the results in it."""
    splits = reported_splits(store)
    classifiers, notes = open_classifiers(store)
    results = Results(tuple(score(classifier, split) for split in splits for classifier in classifiers))
    counts = np.asarray(run.data["class_counts"], dtype=np.int64)

    def on_val(classifier: Classifier) -> float:
        return results.find(classifier.method, splits[0]).class_mean.value

    material = Material(
        folder=folder,
        run=run,
        classifiers=classifiers,
        # The best on the first split, val; shown on the last
        after=max(classifiers[1:], key=on_val, default=None),
        results=results,
        split=splits[-1],
        counts=counts,
        groups=shot_groups(counts),
    )
    figures = draw_figures(material)
    worst = worst_classes(store, material.before, material.after, split=material.split, counts=counts)
    write_page(material, figures, worst, notes)
    return results


def open_classifiers(store: FeatureStore) -> tuple[list[Classifier], list[str]]:
    """Return the joint classifier and every rebalanced one of the run that fits its weights.

    Returns:
        (classifiers, a sentence on every one that is left out).
    """
    classifiers, notes = [joint_classifier(store)], []
    for method in methods_of(store.run):
        try:
            classifiers.append(open_classifier(store, method))
        except (ValueError, OSError) as error:
            notes.append(f"{method.replace('_', ' ')} is left out: {error}.")
    return classifiers, notes
