"""Losses for long-tailed training, as functions of logits: for stage 1 and for retraining a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import LOSSES
from .config.plugins import load, names_function, what_happened

# Shapes: B batch, C classes; leading dimensions (`...`) hold classifiers that are trained side by side.

OwnLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A loss of the user's: logits, float32 [B, C], labels, int64 [B], and class counts, int64 [C] -> [] or [B]."""

CB_BETA, CB_GAMMA = 0.9999, 0.5  # effective number of samples and focus, as Cui et al. use them for many classes
LDAM_MARGIN, LDAM_SCALE, DRW_FROM = 0.5, 30.0, 0.8  # Cao et al.: largest margin, scale, share of epochs before weights

LOST, EXPLODED = 10, 1000  # times the loss of a network that knows nothing: after an epoch, and in its midst


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
      epochs on weighted by the effective number of samples: deferred re-weighting (Cao et al., 2019);
    - `module:function`: the user's own, an `OwnLoss`.

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
        own = own_loss(name)
        if own is not None:
            return mean_of_own(own, logits, target, class_counts)
        if name == "cb_focal":
            return focal(logits, target, effective_weights(class_counts)).mean(-1)
        if name == "balanced_softmax":
            logits = logits + log_counts(class_counts).to(logits.dtype)
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


def log_counts(class_counts: Tensor) -> Tensor:
    """Return the offset of `balanced_softmax`, log n_j, [C]."""
    return class_counts.clamp(min=1).log()


def own_loss(name: str) -> OwnLoss | None:
    """Return the user's own loss that `module:function` names; None for one of ours.

    Raises:
        ValueError: It cannot be imported.
    """
    return load("--loss", name) if names_function(name) else None


def mean_of_own(loss: OwnLoss, logits: Tensor, labels: Tensor, class_counts: Tensor) -> Tensor:
    """Return the mean of the user's loss over a batch, [...], of logits [..., B, C] and labels [..., B]."""
    if logits.ndim == 2:
        # Copies, since a loss that changes them in place would change what else is computed from them
        return loss(logits, labels.clone(), class_counts.clone()).mean()
    pairs = zip(logits, labels, strict=True)
    return torch.stack([mean_of_own(loss, each, its_labels, class_counts) for each, its_labels in pairs])


def check_own_loss(name: str, class_counts: Tensor) -> None:
    """Try the user's own loss on a made-up batch, so that a mistake costs no training.

    Args:
        name: The loss; nothing is tried of one of ours.
        class_counts: [C] training images of every class, on the device that trains.

    Raises:
        ValueError: It cannot be imported, it raises, or what it returns is no loss.
    """
    loss = own_loss(name)
    if loss is None:
        return
    num_classes, device = len(class_counts), class_counts.device
    batch = 8 if num_classes != 8 else 6  # a number that cannot be taken for that of the classes
    logits = torch.linspace(-1, 1, batch * num_classes, device=device).view(batch, num_classes).requires_grad_()
    labels = torch.arange(batch, device=device) % num_classes
    value = tried(loss, name, logits, labels, class_counts)
    what = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    if not isinstance(value, Tensor) or value.shape not in ((), (batch,)) or not value.is_floating_point():
        raise ValueError(
            f"--loss: got {name}, which returned {what} for a batch of {batch}; expected one number, or one an image, "
            "in floating point; return such a tensor"
        )
    if not value.requires_grad:
        raise ValueError(
            f"--loss: got {name}, whose value has no gradient; expected one that is computed from the logits; keep "
            "them attached (no detach, argmax or numpy)"
        )
    (gradient,) = torch.autograd.grad(value.mean(), logits, allow_unused=True)
    if gradient is None or not torch.isfinite(value).all() or not torch.isfinite(gradient).all():
        raise ValueError(
            f"--loss: got {name}, whose value or gradient is not finite for logits from -1 to 1; expected finite "
            "numbers; correct it"
        )
    twice = tried(loss, name, logits.tile(2, 1), labels.tile(2), class_counts).mean()
    if value.ndim == 0 and value != 0 and torch.isclose(twice, 2 * value, rtol=1e-4, atol=0):
        raise ValueError(
            f"--loss: got {name}, which is twice as large for a batch twice as large; expected a mean over the batch, "
            "for which learning rates are made; return .mean() instead of .sum()"
        )


def tried(loss: OwnLoss, name: str, logits: Tensor, labels: Tensor, class_counts: Tensor) -> Any:
    """Return what the user's own loss returns.

    Raises:
        ValueError: It raises.
    """
    try:
        return loss(logits, labels, class_counts.clone())
    except Exception as error:
        batch, num_classes = logits.shape
        raise ValueError(
            f"--loss: got {name}, which raised {what_happened(error)} for logits [{batch}, {num_classes}], labels "
            f"[{batch}] and class counts [{num_classes}]; expected a loss; correct it (FASTLT_TRACEBACK=1 prints where)"
        ) from error


def ignorant_loss(name: str, class_counts: Tensor) -> float:
    """Return the loss of logits that are all 0 on images of the rarest class, at least 1: what training starts below.

    A training whose loss is many times as large has diverged, finite as the loss may be.

    Args:
        name: The loss, as in `batch_loss`.
        class_counts: [C] training images of every class.
    """
    labels = class_counts.argmin().expand(2)
    logits = torch.zeros(2, len(class_counts), device=class_counts.device)
    loss = batch_loss(name, logits, labels, class_counts).item()
    return max(1.0, loss) if math.isfinite(loss) else math.inf


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
