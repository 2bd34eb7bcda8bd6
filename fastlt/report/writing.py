"""Collects the contents of a report, and writes its figures and its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..evaluation.choice import Choice, read_choice
from ..evaluation.classifier import Classifier, joint_classifier, methods_of, open_classifier
from ..evaluation.results import Results, plain_name
from ..evaluation.scoring import reported_splits, score, scored_splits
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
    classifiers, notes = open_classifiers(store)
    splits, gap = scored_splits(reported_splits(store), classifiers)
    notes += [f"{gap[0].upper()}{gap[1:]}."] if gap else []
    results = Results(tuple(score(classifier, split) for split in splits for classifier in classifiers))
    counts = np.asarray(run.data["class_counts"], dtype=np.int64)

    choice = read_choice_or_none(store, notes)
    material = Material(
        folder=folder,
        run=run,
        classifiers=classifiers,
        after=after_of(classifiers, choice, results, splits[0]),
        choice=choice,
        results=results,
        split=splits[-1],
        counts=counts,
        groups=shot_groups(counts),
    )
    figures = draw_figures(material)
    worst = worst_classes(store, material.before, material.after, split=material.split, counts=counts)
    write_page(material, figures, worst, notes)
    return results


def read_choice_or_none(store: FeatureStore, notes: list[str]) -> Choice | None:
    """Return the choice that a run goes by, if there is one; a sentence on a damaged one is added to the notes."""
    try:
        return read_choice(store)
    except ValueError as error:
        notes.append(f"The choice of a classifier is left out: {error}.")
        return None


def after_of(classifiers: list[Classifier], choice: Choice | None, results: Results, split: str) -> Classifier | None:
    """Return the classifier to show beside joint: the chosen one; where none is chosen, the best on a split, val."""
    if choice is not None:
        return next((each for each in classifiers[1:] if each.method == choice.method), None)
    return max(classifiers[1:], key=lambda each: results.find(each.method, split).class_mean.value, default=None)


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
            notes.append(f"{plain_name(method)} is left out: {error}.")
    return classifiers, notes
