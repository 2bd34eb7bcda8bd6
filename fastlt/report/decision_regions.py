"""The choice of three classes of a linear head, and of the plane that shows their borders exactly."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..evaluation.classifier import Classifier
from ..evaluation.predictions import Predictions
from .plots.geometry import Plane

# Shapes: N samples, D feature width, C classes.

MAX_IMAGES = 120  # per class


def choose_classes(
    predictions: Predictions, counts: NDArray[np.int64], groups: dict[str, NDArray[np.bool_]]
) -> tuple[int, int, int] | None:
    """Choose a head and a tail class, those of the most frequent mistake of few for many, and a medium class.

    If no tail image is predicted as a head class, they are the largest, the middle and the smallest class.

    Args:
        predictions: The joint classifier's predictions.
        counts: [C] training images.
        groups: "many", "medium", "few" -> classes [C].

    Returns:
        Three classes, largest first; None if fewer than three have images.
    """
    present = np.flatnonzero(np.bincount(predictions.labels, minlength=len(counts)))
    if len(present) < 3:
        return None
    present = present[np.argsort(-counts[present], kind="stable")]
    medium = present[groups["medium"][present]]
    lost = groups["few"][predictions.labels] & groups["many"][predictions.classes]
    lost &= np.isin(predictions.classes, present)
    if not lost.any() or not len(medium):
        return int(present[0]), int(present[len(present) // 2]), int(present[-1])
    pairs = predictions.labels[lost] * len(counts) + predictions.classes[lost]
    tail, head = divmod(int(np.bincount(pairs).argmax()), len(counts))
    confused = np.bincount(predictions.classes[np.isin(predictions.labels, (tail, head))], minlength=len(counts))
    return head, int(medium[confused[medium].argmax()]), tail


def planes(classifiers: list[Classifier], classes: tuple[int, int, int], split: str) -> list[Plane]:
    """Return the plane of every classifier that decides among three classes.

    The winner depends on two differences of logits, and so on the projection of a feature onto the span of two
    differences of weight vectors: in an orthonormal basis of that plane the borders are exact for every image. The
    bases are turned (orthogonal Procrustes) so that the images lie as in the first classifier's plane.
    """
    ids = list(classes)
    results: list[Plane] = []
    for classifier in classifiers:
        stored = classifier.store.split(split)
        parts = [np.flatnonzero(stored.labels == index)[:MAX_IMAGES] for index in ids]
        features = stored.rows(np.concatenate(parts), torch.device("cpu")).double().numpy()
        weight = classifier.head.weight.detach().cpu().double().numpy()[ids]
        bias = np.zeros(3)
        if classifier.head.bias is not None:
            bias = classifier.head.bias.detach().cpu().double().numpy()[ids]
        differences = weight[:2] - weight[2]
        basis = np.linalg.qr(differences.T)[0]  # [D, 2]
        points = features @ basis
        if results:
            first = results[0].points
            left, _, right = np.linalg.svd((points - points.mean(0)).T @ (first - first.mean(0)))
            turn = left @ right
        else:  # the first axis along the largest spread
            turn = np.linalg.svd(points - points.mean(0), full_matrices=True)[2].T
        results.append(
            Plane(
                title=classifier.label,
                points=points @ turn,
                labels=np.repeat(np.arange(3), [len(part) for part in parts]),
                weight=np.vstack([differences @ basis @ turn, np.zeros((1, 2))]),
                bias=bias - bias[2],
            )
        )
    return results
