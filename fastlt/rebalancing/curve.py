"""The exact accuracy of a split as a step function of tau, from one product: values, optima and bands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..config import GROUPS, SHOT_GROUPS, check_choice
from ..metrics import FEW, MANY, mean_interval, shot_groups
from ..metrics.intervals import score_interval
from ..ops import prior_intervals, tau_intervals

# Shapes: N samples, C classes, D feature width, T taus, K edges of a step function.

_Floats = NDArray[np.float64]
_Labels = Tensor | NDArray[np.integer]

HARMONIC = "harmonic_mean"
_TOLERANCE = 1e-9  # accuracies closer than this differ only by the rounding of their sums


class _Head(Protocol):
    @property
    def weight(self) -> Tensor: ...
    @property
    def bias(self) -> Tensor | None: ...


class TauChoice(NamedTuple):
    """A best tau: the middle of the widest interval (low, high) on which the objective has its largest value.

    Attributes:
        tau: The middle.
        low: The interval's lower end.
        high: The interval's upper end.
        value: The objective there, a fraction.
    """

    tau: float
    low: float
    high: float
    value: float


@dataclass(frozen=True, eq=False, kw_only=True)
class TauCurve:
    """Accuracy at every tau: sample i is classified right exactly on the open interval (low_i, high_i).

    The groups: `all` is the share of all images; `class_mean` is the mean of class accuracies; `many`, `medium` and
    `few` are that mean over classes with more than `many`, `few` to `many`, and fewer than `few` training images. A
    class that has no sample in this split belongs to no group. Values are fractions.
    """

    low: _Floats
    """[N]; inf for a sample that is never right."""
    high: _Floats
    """[N]; -inf for a sample that is never right."""
    labels: NDArray[np.int64]
    """[N] the true classes."""
    class_counts: NDArray[np.int64]
    """[C] training images of each class."""
    many: int = MANY
    """A class with more images than this is in `many`."""
    few: int = FEW
    """A class with fewer images than this is in `few`."""

    @classmethod
    def joined(cls, curves: Sequence[TauCurve], class_counts: NDArray[np.int64]) -> TauCurve:
        """Return the curve of the samples of several splits together, each under its own head.

        Args:
            curves: Curves of the same classes, at least one.
            class_counts: Integers [C], which decide the groups of all samples.
        """
        low, high, labels = (
            np.concatenate([getattr(curve, name) for curve in curves]) for name in ("low", "high", "labels")
        )
        return dataclasses.replace(curves[0], low=low, high=high, labels=labels, class_counts=class_counts)

    @cached_property
    def sample_weights(self) -> dict[str, _Floats]:
        """What a right answer adds to the accuracy of each non-empty group, [N] each; sums to 1."""
        totals = self._totals
        classes = {name: (totals > 0) & mask for name, mask in self._masks.items()}
        weights = {"all": np.full(len(self.labels), 1.0 / max(len(self.labels), 1))}
        for group, members in classes.items():
            share = np.where(members, 1.0 / (np.maximum(totals, 1) * max(members.sum(), 1)), 0.0)
            weights[group] = share[self.labels]
        return {group: weights[group] for group in GROUPS if len(self.labels) and weights[group].any()}

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that have samples in this split, in the order of `config.GROUPS`."""
        return tuple(self.sample_weights)

    def steps(self, group: str = "all") -> tuple[_Floats, _Floats]:
        """Return the step function of a group's accuracy.

        Args:
            group: A group, or `harmonic_mean` of those of many, medium and few that have samples.

        Returns:
            (edges [K], ascending; values [K + 1], fractions): values[k] holds on (edges[k - 1], edges[k]).
        """
        right = self.low < self.high
        low, high = self.low[right], self.high[right]
        edges = np.unique(np.concatenate([low, high]))
        edges = edges[np.isfinite(edges)]
        num_pieces = len(edges) + 1
        start = np.where(np.isneginf(low), 0, np.searchsorted(edges, low) + 1)
        stop = np.where(np.isposinf(high), num_pieces, np.searchsorted(edges, high) + 1)
        rows = []
        for weight in self._weights(group):
            gained = np.bincount(start, weight[right], num_pieces + 1) - np.bincount(
                stop, weight[right], num_pieces + 1
            )
            rows.append(np.cumsum(gained)[:-1])
        return edges, _combine(rows)

    def value(self, tau: ArrayLike, group: str = "all") -> _Floats:
        """Return the accuracy at each tau.

        On an edge, where either answer is right, samples whose interval ends there count as wrong.

        Args:
            tau: Any shape.
            group: As in `steps`.

        Returns:
            Fractions of the shape of `tau`.

        Raises:
            ValueError: A tau is NaN, or the group is unknown or empty.
        """
        taus = np.asarray(tau, dtype=np.float64)
        if np.isnan(taus).any():
            raise ValueError("tau: got NaN; expected numbers")
        right = self.low < self.high
        starts, stops = np.argsort(self.low[right]), np.argsort(self.high[right])
        num_started = np.searchsorted(self.low[right][starts], taus, side="left")
        num_stopped = np.searchsorted(self.high[right][stops], taus, side="right")
        rows = []
        for weight in self._weights(group):
            gained, lost = (np.cumsum(np.append(0.0, weight[right][order])) for order in (starts, stops))
            rows.append(gained[num_started] - lost[num_stopped])
        return _combine(rows)

    def best(self, objective: str = "all", *, low: float = 0.0, high: float = 2.0) -> TauChoice:
        """Return the middle of the widest interval in [low, high] with the largest value, never an isolated point.

        Args:
            objective: A group, or `harmonic_mean` of those of many, medium and few that have samples.
            low: Smallest tau considered.
            high: Largest tau considered.

        Returns:
            The choice.

        Raises:
            ValueError: `low` is not below `high`, or the group is unknown or empty.
        """
        if not low < high:
            raise ValueError(f"low, high: got {low} and {high}; expected low < high")
        edges, values = self.steps(objective)
        first, last = np.searchsorted(edges, low, side="right"), np.searchsorted(edges, high, side="left")
        ends = np.concatenate([[low], edges[first:last], [high]])
        values = values[first : last + 1]
        best = values >= values.max() - _TOLERANCE
        change = np.flatnonzero(np.diff(np.concatenate([[False], best, [False]]).astype(np.int8)))
        starts, stops = ends[change[::2]], ends[change[1::2]]
        widest = int(np.argmax(stops - starts))
        left, right = float(starts[widest]), float(stops[widest])
        return TauChoice((left + right) / 2, left, right, float(values.max()))

    def band(self, taus: ArrayLike, group: str = "all", *, level: float = 0.95) -> tuple[_Floats, _Floats]:
        """Return an interval of the accuracy at each tau: Wilson's for `all`, else `fastlt.metrics.mean_interval`.

        The harmonic mean moves by the groups' intervals, one at a time, whose effects add up in squares.

        Args:
            taus: [T].
            group: As in `steps`.
            level: Share of samples for which the interval at one tau holds the true accuracy, between 0 and 1.

        Returns:
            (lower [T], upper [T]), fractions.

        Raises:
            ValueError: `level` is not between 0 and 1, or the group is unknown or empty.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level: got {level}; expected a number between 0 and 1")
        z = NormalDist().inv_cdf((1 + level) / 2)
        grid = np.atleast_1d(np.asarray(taus, dtype=np.float64))
        right = [self.labels[(self.low < tau) & (tau < self.high)] for tau in grid]
        totals, groups = self._totals, self._groups_in(group)
        hits = np.stack([np.bincount(labels, minlength=len(totals)) for labels in right])
        if group == "all":
            return score_interval(hits.sum(1) / totals.sum(), totals.sum(), z)
        ends = (mean_interval(hits, totals, self._masks[name], z=z) for name in groups)
        lower, upper = (list(side) for side in zip(*filter(None, ends), strict=True))
        if len(groups) == 1:
            return lower[0], upper[0]
        # From the middles, as the harmonic mean does not move by one group where another is at 0
        middle = [(low + high) / 2 for low, high in zip(lower, upper, strict=True)]
        centre, value = _combine(middle), self.value(grid, group)

        def reach(side: list[_Floats]) -> _Floats:
            moved = [_combine([*middle[:i], end, *middle[i + 1 :]]) - centre for i, end in enumerate(side)]
            distance: _Floats = np.sqrt(np.square(moved).sum(0))
            return distance

        return np.minimum(np.maximum(centre - reach(lower), 0.0), value), np.maximum(centre + reach(upper), value)

    @cached_property
    def _totals(self) -> NDArray[np.int64]:
        """The images [C] of every class in this split."""
        return np.bincount(self.labels, minlength=len(self.class_counts))

    @cached_property
    def _masks(self) -> dict[str, NDArray[np.bool_]]:
        """The classes [C] of every group of classes."""
        every = np.ones(len(self.class_counts), dtype=np.bool_)
        return {"class_mean": every, **shot_groups(self.class_counts, self.many, self.few)}

    def _groups_in(self, name: str) -> list[str]:
        """Return a group, or the groups that enter the harmonic mean; only those with samples."""
        check_choice("group", name, (*GROUPS, HARMONIC))
        present = [group for group in (SHOT_GROUPS if name == HARMONIC else (name,)) if group in self.groups]
        if not present:
            raise ValueError(
                f"group: got {name}, which has no sample in this split; expected one of {', '.join(self.groups)}"
            )
        return present

    def _weights(self, name: str) -> list[_Floats]:
        """Return the sample weights [N] of a group, or of each group that enters the harmonic mean."""
        return [self.sample_weights[group] for group in self._groups_in(name)]


def _combine(rows: list[_Floats]) -> _Floats:
    """Return the harmonic mean of non-negative rows; a single row is returned unchanged."""
    if len(rows) == 1:
        return rows[0]
    with np.errstate(divide="ignore"):
        mean: _Floats = len(rows) / np.sum(1.0 / np.maximum(rows, 0.0), axis=0)
    return mean


def tau_curve(
    head: _Head, features: Tensor, labels: _Labels, class_counts: ArrayLike, *, many: int = MANY, few: int = FEW
) -> TauCurve:
    """Return the exact accuracy of tau-normalization at every tau on one split, from one matrix product.

    tau-normalization is that of Kang et al. (2020, section 4.2), x.w_j / ||w_j||^tau; the head's bias plays no part.

    Args:
        head: Anything with `weight` [C, D], such as a `fastlt.models.LinearHead`.
        features: [N, D], on the device of the head.
        labels: Integers [N].
        class_counts: Integers [C], training images of each class.
        many: A class with more images than this is in `many`.
        few: A class with fewer images than this is in `few`.

    Returns:
        The step function for all, class_mean, many, medium and few, and its optimum.

    Raises:
        ValueError: A shape, device or value does not fit; see `fastlt.ops.tau_intervals`.

    Example:
        >>> import torch
        >>> from fastlt.models import LinearHead
        >>> from fastlt.rebalancing import tau_curve
        >>> head = LinearHead(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        >>> curve = tau_curve(head, torch.tensor([[1.0, 0.1], [0.5, 1.0]]), torch.tensor([0, 1]), [200, 5])
        >>> curve.value([0.0, 1.0]).tolist()
        [0.5, 1.0]
        >>> choice = curve.best("class_mean")
        >>> choice.value, choice.low, choice.high
        (1.0, 0.5, 2.0)
    """
    weight = head.weight.detach()
    labels, counts = _targets(labels, class_counts, weight)
    low, high = tau_intervals(features, weight, labels.to(features.device))
    return _curve(low, high, labels, counts, many, few)


def prior_curve(
    head: _Head, features: Tensor, labels: _Labels, class_counts: ArrayLike, *, many: int = MANY, few: int = FEW
) -> TauCurve:
    """Return the exact accuracy of post-hoc logit adjustment at every tau on one split, from one matrix product.

    Logit adjustment is that of Menon et al. (2021), x.w_j + b_j - tau log(n_j / sum n) for class counts n.

    Args:
        head: Anything with `weight` [C, D] and `bias` [C] or None, such as a `fastlt.models.LinearHead`.
        features: [N, D], on the device of the head.
        labels: Integers [N].
        class_counts: Integers [C], training images of each class, at least one.
        many: A class with more images than this is in `many`.
        few: A class with fewer images than this is in `few`.

    Returns:
        The step function for all, class_mean, many, medium and few, and its optimum.

    Raises:
        ValueError: A shape, device or value does not fit, or a class has no training image, so that its log prior is
            not finite.
    """
    weight, bias = head.weight.detach(), head.bias
    labels, counts = _targets(labels, class_counts, weight)
    if (counts < 1).any():
        raise ValueError(
            f"class_counts: got {counts.min()} for class {int(np.argmin(counts))}; expected at least 1, since its log "
            "prior is not finite"
        )
    log_prior = torch.from_numpy(np.log(counts / counts.sum())).to(features.device)
    bias = None if bias is None else bias.detach()
    low, high = prior_intervals(features, weight, labels.to(features.device), log_prior, bias=bias)
    return _curve(low, high, labels, counts, many, few)


def _targets(labels: _Labels, class_counts: ArrayLike, weight: Tensor) -> tuple[Tensor, NDArray[np.int64]]:
    """Return labels as a tensor, class counts as int64 [C]."""
    counts = np.asarray(class_counts.cpu() if isinstance(class_counts, Tensor) else class_counts)
    if counts.shape != (weight.shape[0],) or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(
            f"class_counts: got {counts.dtype} {list(counts.shape)}; expected {weight.shape[0]} integers, one a class"
        )
    return torch.as_tensor(labels), counts.astype(np.int64)


def _curve(low: Tensor, high: Tensor, labels: Tensor, counts: NDArray[np.int64], many: int, few: int) -> TauCurve:
    return TauCurve(
        low=low.double().cpu().numpy(),
        high=high.double().cpu().numpy(),
        labels=labels.cpu().numpy().astype(np.int64),
        class_counts=counts,
        many=many,
        few=few,
    )
