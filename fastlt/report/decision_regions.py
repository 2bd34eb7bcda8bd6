"""Three classes of a linear head in two dimensions, exactly: which three, and which plane."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..evaluation.classifier import Classifier
from ..evaluation.predictions import Predictions
from .plots.geometry import Plane

# Shapes: N samples, D feature width, C classes.

MAX_IMAGES = 120  # a class


def choose_classes(
    predictions: Predictions, counts: NDArray[np.int64], groups: dict[str, NDArray[np.bool_]]
) -> tuple[int, int, int] | None:
    """Choose a head, a middle and a tail class: the tail class that a head class takes most images of, and that one.

    Where no image of the tail is taken for the head they are the largest, the middle and the smallest class.

    Args:
        predictions: Of the joint classifier.
        counts: [C] training images.
        groups: "many", "medium", "few" -> classes [C].

    Returns:
        Three classes, largest first; None if fewer than three have images.
    """
    seen = np.flatnonzero(np.bincount(predictions.labels, minlength=len(counts)))
    if len(seen) < 3:
        return None
    seen = seen[np.argsort(-counts[seen], kind="stable")]
    middle = seen[groups["medium"][seen]]
    lost = groups["few"][predictions.labels] & groups["many"][predictions.classes]
    lost &= np.isin(predictions.classes, seen)
    if not lost.any() or not len(middle):
        return int(seen[0]), int(seen[len(seen) // 2]), int(seen[-1])
    pairs = predictions.labels[lost] * len(counts) + predictions.classes[lost]
    tail, head = divmod(int(np.bincount(pairs).argmax()), len(counts))
    taken = np.bincount(predictions.classes[np.isin(predictions.labels, (tail, head))], minlength=len(counts))
    return head, int(middle[taken[middle].argmax()]), tail


def planes(classifiers: list[Classifier], classes: tuple[int, int, int], split: str) -> list[Plane]:
    """Return the plane of every classifier in which three classes are told apart.

    The winner of three depends on two differences of logits, so on the projection of a feature to the span of two
    differences of weight vectors: in an orthonormal basis of that plane the borders are exact for every image. The
    bases are turned (orthogonal Procrustes) so that the images lie as in the first classifier's.
    """
    chosen = list(classes)
    found: list[Plane] = []
    for classifier in classifiers:
        stored = classifier.store.split(split)
        parts = [np.flatnonzero(stored.labels == index)[:MAX_IMAGES] for index in chosen]
        features = stored.rows(np.concatenate(parts), torch.device("cpu")).double().numpy()
        weight = classifier.head.weight.detach().cpu().double().numpy()[chosen]
        bias = np.zeros(3)
        if classifier.head.bias is not None:
            bias = classifier.head.bias.detach().cpu().double().numpy()[chosen]
        differences = weight[:2] - weight[2]
        basis = np.linalg.qr(differences.T)[0]  # [D, 2]
        points = features @ basis
        if found:
            first = found[0].points
            left, _, right = np.linalg.svd((points - points.mean(0)).T @ (first - first.mean(0)))
            turn = left @ right
        else:  # the first axis along the largest spread
            turn = np.linalg.svd(points - points.mean(0), full_matrices=True)[2].T
        found.append(
            Plane(
                title=classifier.label,
                points=points @ turn,
                labels=np.repeat(np.arange(3), [len(part) for part in parts]),
                weight=np.vstack([differences @ basis @ turn, np.zeros((1, 2))]),
                bias=bias - bias[2],
            )
        )
    return found
