"""Nearest class mean: the closest centroid in feature space, as a linear head or as in the released code."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ... import ops
from ...config import RebalanceConfig
from ...features.arrays import check_finite, chunks
from ...models import LinearHead
from ..engine.cached import check_features
from ..problem import Problem, RebalancedHead

# Shapes: N samples, C classes, D feature width.


def fit(problem: Problem, config: RebalanceConfig) -> RebalancedHead:
    """Return the cosine nearest class mean, the linear counterpart of the released code's default."""
    check_features(problem.train[:1], problem.head)
    train, labels = problem.train[0].tensors(problem.device)
    head = nearest_class_mean(train, labels, problem.head.num_classes)
    return RebalancedHead(head=head, params={}, selected_on=None)


def nearest_class_mean(
    features: Tensor, labels: Tensor, num_classes: int, *, variant: Literal["cosine", "euclidean"] = "cosine"
) -> LinearHead:
    """Return the nearest-class-mean classifier (Kang et al., 2020, section 4.2) as a linear head.

    `euclidean` is the nearest centroid c of raw features: ||x - c||^2 is least where x.c - ||c||^2 / 2 is largest.
    `cosine` centres the features by their mean m and scales them to unit length before averaging; the largest cosine
    between x - m and c is the largest x.c/||c|| - m.c/||c||.

    Args:
        features: [N, D] training features.
        labels: Integers [N], on their device.
        num_classes: Number of classes, C.
        variant: `cosine` or `euclidean`.

    Returns:
        The head, weight [C, D] and bias [C].

    Raises:
        ValueError: A class has no features, shapes do not fit, or the variant is unknown.

    Example:
        >>> import torch
        >>> from fastlt.rebalancing import nearest_class_mean
        >>> features = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 0.0]])
        >>> head = nearest_class_mean(features, torch.tensor([0, 0, 1]), 2, variant="euclidean")
        >>> head.weight.tolist(), head.bias.tolist()
        ([[0.0, 2.0], [4.0, 0.0]], [-2.0, -8.0])
    """
    if variant not in ("cosine", "euclidean"):
        raise ValueError(f"variant: got {variant}; expected cosine or euclidean")
    center = mean(features) if variant == "cosine" else None
    centroids = class_means(features, labels, num_classes, center=center, normalize=center is not None)
    if center is None:
        return LinearHead(centroids, -centroids.square().sum(1) / 2)
    directions = torch.nn.functional.normalize(centroids, dim=1)
    return LinearHead(directions, -(directions @ center))


@torch.no_grad()
def nearest_class_mean_predict(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    *,
    center: bool = True,
    normalize: bool = True,
    metric: Literal["l2", "cos"] = "l2",
) -> Tensor:
    """Predict with the nearest class mean of Kang et al.'s released code, exactly as coded.

    Its centroids are not scaled to unit length again. The six variants are raw (`center=False, normalize=False`),
    normalised (`center=False`) and centred and normalised features, by Euclidean distance (`l2`) or by the product with
    the centroids (`cos`, no cosine).

    Args:
        train_features: [M, D] training features.
        train_labels: Integers [M]; the largest decides the number of classes.
        features: [N, D] to classify.
        center: Whether the image-weighted mean of the training features is subtracted.
        normalize: Whether features are scaled to unit length, after centring.
        metric: `l2` or `cos`.

    Returns:
        The predicted classes, int64 [N].

    Raises:
        ValueError: A class has no training features, or an argument does not fit.

    Example:
        >>> import torch
        >>> from fastlt.rebalancing import nearest_class_mean_predict
        >>> train = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 0.0]])
        >>> nearest_class_mean_predict(train, torch.tensor([0, 0, 1]), torch.tensor([[3.0, 1.0], [0.0, 9.0]])).tolist()
        [1, 0]
    """
    mean_feature = mean(train_features) if center else None
    num_classes = int(train_labels.max()) + 1
    centroids = class_means(train_features, train_labels, num_classes, center=mean_feature, normalize=normalize)
    predictions = [
        ops.centroid_logits(chunk, centroids, center=mean_feature, normalize=normalize, metric=metric).argmax(1)
        for _, chunk in chunks(features)
    ]
    return torch.cat(predictions)


def mean(features: Tensor) -> Tensor:
    """Return the mean feature, [D]."""
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for _, chunk in chunks(features):  # a sum in float64 would copy all of them
        total += chunk.sum(0, dtype=torch.float64)
    return (total / len(features)).to(features.dtype)


def class_means(
    features: Tensor, labels: Tensor, num_classes: int, *, center: Tensor | None, normalize: bool
) -> Tensor:
    """Average the features of every class, [C, D], after centring and normalising where asked for.

    Raises:
        ValueError: A class has no features, some are not finite, or a label is out of range.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features, labels: got shapes {list(features.shape)} and {list(labels.shape)}; expected [N, D] and [N]"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels: got {int(labels.min())} to {int(labels.max())}; expected 0 to {num_classes - 1}")
    counts = torch.bincount(labels, minlength=num_classes)
    if (counts == 0).any():
        empty = int((counts == 0).nonzero()[0])
        raise ValueError(
            f"labels: got no features of class {empty}; expected at least one of each of {num_classes} classes"
        )
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, device=features.device)
    for rows, chunk in chunks(features):
        x = chunk.double()
        if center is not None:
            x = x - center.double()
        if normalize:
            x = torch.nn.functional.normalize(x, dim=1)
        sums.index_add_(0, labels[rows], x)
    if not torch.isfinite(sums).all():
        check_finite(features, "features")
    return (sums / counts[:, None]).to(features.dtype)
