"""The class and the confidence that a head predicts for every image, in chunks of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..features.arrays import chunks
from ..metrics import class_hits
from ..models import LinearHead


class Predictions(NamedTuple):
    """The predictions of a head for N samples."""

    labels: NDArray[np.int64]
    """[N] the true classes."""
    classes: NDArray[np.int64]
    """[N] the predicted classes; a tie goes to the lower index."""
    confidences: NDArray[np.float64]
    """[N] the probability of the predicted class."""
    log_likelihoods: NDArray[np.float64]
    """[N] the log probability of the true class."""

    @classmethod
    def joined(cls, parts: Iterable[Predictions]) -> Predictions:
        """Return predictions one after another."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def take(self, ids: NDArray[np.int64]) -> Predictions:
        """Return the predictions of samples `ids`, in that order."""
        return Predictions(*(column[ids] for column in self))  # type: ignore[arg-type]  # dtypes stay

    @property
    def right(self) -> NDArray[np.bool_]:
        """[N] whether the prediction is right."""
        right: NDArray[np.bool_] = self.classes == self.labels
        return right

    def class_accuracy(self, num_classes: int) -> NDArray[np.float64]:
        """Return the accuracy of every class, fractions [C]; NaN where there is no sample."""
        hits, totals = class_hits(self.right, self.labels, num_classes)
        accuracy: NDArray[np.float64] = np.divide(hits, totals, out=np.full(num_classes, np.nan), where=totals > 0)
        return accuracy


def logit_chunks(head: LinearHead, features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, float64 logits of these rows [*, C])."""
    weight = head.weight.detach()
    bias = None if head.bias is None else head.bias.detach()
    for rows, chunk in chunks(features):
        yield rows, F.linear(chunk, weight, bias).double()


@torch.inference_mode()
def predict(head: LinearHead, features: Tensor, labels: Tensor) -> Predictions:
    """Return predicted classes, their probabilities and the labels' log probabilities.

    Args:
        head: The classifier.
        features: [N, D], on the head's device.
        labels: [N].
    """
    bias = None if head.bias is None else head.bias.detach()
    classes, of_class, of_label = ops.predictions(features, head.weight.detach(), labels, bias=bias)
    return Predictions(*(column.cpu().numpy() for column in (labels, classes, of_class.exp(), of_label)))
