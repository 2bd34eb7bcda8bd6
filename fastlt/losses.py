"""Losses for long-tailed training, as functions of logits: for stage 1 and for retraining a classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import LOSSES

# Shapes: B batch, C classes; leading dimensions (`...`) hold classifiers that are trained side by side.

CB_BETA, CB_GAMMA = 0.9999, 0.5  # effective number of samples and focus, as Cui et al. use them for many classes
LDAM_MARGIN, LDAM_SCALE, DRW_FROM = 0.5, 30.0, 0.8  # Cao et al.: largest margin, scale, share of epochs before weights


def effective_weights(class_counts: Tensor, beta: float = CB_BETA) -> Tensor:
    """Return class weights (1 - beta) / (1 - beta^n), scaled to mean 1 (Cui et al., 2019, eq. 5), [C]."""
    counts = class_counts.double()
    weights = (1 - beta) / (1 - beta ** counts.clamp(min=1))
    return (weights / weights.mean()).float()


def batch_loss(
    name: str,
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor | None,
    *,
    epoch_fraction: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    mean_weight: Tensor | None = None,
) -> Tensor:
    """Return the mean loss over a batch.

    The losses are
    - `cross_entropy`;
    - `balanced_softmax`: cross entropy of z_j + log n_j (Ren et al., 2020; Menon et al., 2021, with tau = 1);
    - `cb_focal`: sigmoid focal loss, weighted by the effective number of samples (Cui et al., 2019), summed over
      classes;
    - `ldam`: cross entropy of s (cos_j - [j = y] m_y), m_j proportional to n_j^(-1/4), at most 0.5; from 80 % of the
      epochs on weighted by the effective number of samples: deferred re-weighting (Cao et al., 2019).

    Args:
        name: The loss.
        logits: [..., B, C], float32; cosines for ldam.
        labels: [..., B] or [B].
        class_counts: [C] training images of every class; cross entropy does not need it.
        epoch_fraction: Share of the epochs done, for ldam.
        label_smoothing: Share of the label's mass that is spread over all classes; not for cb_focal.
        mean_weight: Divisor of ldam's weighted mean for a piece of a batch: the mean weight of the whole batch's
            images, []; the mean over equal pieces is then the loss of the whole batch.

    Returns:
        [...], one mean per classifier.

    Raises:
        ValueError: An unknown loss, or one that needs the class counts and has none.
    """
    target = labels.expand(logits.shape[:-1])
    weights = None
    if name != "cross_entropy":
        if class_counts is None:
            raise ValueError(f"--loss: got {name} without class counts; expected the training images of every class")
        if name == "cb_focal":
            return focal(logits, target, effective_weights(class_counts)).mean(-1)
        if name == "balanced_softmax":
            logits = logits + class_counts.clamp(min=1).log().to(logits.dtype)
        elif name == "ldam":
            logits, weights = margins(logits, target, class_counts, epoch_fraction)
        else:
            raise ValueError(f"--loss: got {name!r}; expected one of {', '.join(LOSSES)}; choose one of them")
    terms = F.cross_entropy(
        logits.flatten(0, -2), target.flatten(), reduction="none", label_smoothing=label_smoothing
    ).view(target.shape)
    if weights is None:
        return terms.mean(-1)
    image_weights = weights[target]
    divisor = image_weights.mean(-1) if mean_weight is None else mean_weight.to(image_weights.dtype)
    return (image_weights * terms).mean(-1) / divisor


def focal(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return each image's class-balanced focal loss, [..., B]: sigmoids, summed over classes."""
    positive = F.one_hot(target, logits.shape[-1]).bool()
    signed = torch.where(positive, logits, -logits)
    # (1 - p)^gamma from the logarithm of 1 - p, whose gradient stays finite at p = 1
    per_class = -(CB_GAMMA * F.logsigmoid(-signed)).exp() * F.logsigmoid(signed)
    return weights.to(logits.dtype)[target] * per_class.sum(-1)


def margins(
    cosines: Tensor, target: Tensor, class_counts: Tensor, epoch_fraction: Tensor | float | None
) -> tuple[Tensor, Tensor]:
    """Return LDAM's logits, and the class weights of its deferred re-weighting, [C]."""
    margin = class_counts.clamp(min=1).double() ** -0.25
    margin = (margin * (LDAM_MARGIN / margin.max())).to(cosines.dtype)
    positive = F.one_hot(target, cosines.shape[-1]).to(cosines.dtype)
    weights = deferred_weights(class_counts, epoch_fraction).to(cosines.dtype)
    return LDAM_SCALE * (cosines - positive * margin), weights


def deferred_weights(class_counts: Tensor, epoch_fraction: Tensor | float | None) -> Tensor:
    """Return LDAM's class weights, [C]: ones; from 80 % of the epochs on, those of the effective number of samples."""
    weights = effective_weights(class_counts)
    fraction = 0.0 if epoch_fraction is None else epoch_fraction
    if not isinstance(fraction, Tensor):
        fraction = torch.full((), fraction, device=weights.device)  # a copy from the host would wait for the GPU
    return torch.where(fraction >= DRW_FROM, weights, torch.ones_like(weights))
