"""The classifiers of a run and what each of them says of every image."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import checkpoint
from ..calibration import predict
from ..features import FeatureStore
from ..models import LinearHead

# Shapes: N samples, C classes.


class Predictions(NamedTuple):
    """What a classifier says of the N images of a split."""

    labels: NDArray[np.int64]
    """[N] the true classes."""
    classes: NDArray[np.int64]
    """[N] the predicted classes; the lower index of two that tie."""
    confidences: NDArray[np.float64]
    """[N] the probability of the predicted class."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """[N] whether the prediction is right."""
        right: NDArray[np.bool_] = self.classes == self.labels
        return right

    def class_accuracy(self, num_classes: int) -> NDArray[np.float64]:
        """Return the accuracy of every class, fractions [C]; NaN where there is no image."""
        totals = np.bincount(self.labels, minlength=num_classes)
        hits = np.bincount(self.labels[self.right], minlength=num_classes)
        accuracy: NDArray[np.float64] = np.divide(hits, totals, out=np.full(num_classes, np.nan), where=totals > 0)
        return accuracy


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Classifier:
    """A linear head of a run, and the store of the features that it was made for."""

    name: str
    head: LinearHead
    store: FeatureStore
    known: dict[str, Predictions] = dataclasses.field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name, for readers."""
        return self.name.replace("_", " ")

    def predictions(self, split: str) -> Predictions:
        """Return what the classifier says of a split, computed once."""
        if split not in self.known:
            stored = self.store.split(split)
            said = predict(self.head, *stored.tensors(self.store.device))
            self.known[split] = Predictions(np.asarray(stored.labels), said.classes, said.confidences)
        return self.known[split]


def open_classifiers(store: FeatureStore) -> tuple[list[Classifier], list[str]]:
    """Return the joint classifier and every rebalanced one of the run that fits its weights.

    Returns:
        (classifiers, a sentence on every one that was left out).
    """
    found, notes = [Classifier(name="joint", head=store.head, store=store)], []
    for path in sorted(store.run.path.glob("rebalanced/*/model.safetensors")):
        name = path.parent.name
        try:
            tensors, metadata = checkpoint.load(path)
        except (ValueError, OSError) as error:
            notes.append(f"{name} is left out: {error}.")
            continue
        if metadata.get("weights") != store.weights_hash or "fc.weight" not in tensors:
            notes.append(f"{name} is left out: it was made from other weights than this run's best.")
            continue
        head = LinearHead(tensors["fc.weight"], tensors.get("fc.bias")).to(store.device)
        found.append(Classifier(name=name, head=head, store=store.under(tensors, name)))
    return found, notes
