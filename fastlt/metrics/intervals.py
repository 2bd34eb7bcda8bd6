"""95 % intervals of mean class accuracies and of paired differences, in closed form, from one image a class up.

The accuracy of interest is sum_c w_c p_c, and only n_c images of class c were drawn. Its estimate has the variance
sum_c u_c v_c with u_c = w_c^2 / n_c and v_c the variance of one image's outcome in class c, which is p_c (1 - p_c) for
right or wrong. As if all images were drawn from one class, the estimate behaves like one from

    n = V / sum_c u_c v_c        (V: the variance of one image's outcome over all classes)

images, and the score interval of n images (Wilson, 1927) is never of zero width, not even where all are right.

- Where every class has two images or more, the images of a class tell v_c without bias: n_c / (n_c - 1) times their own
  variance. Few of them say little, so the share of the variance that lies within classes is drawn towards its prior
  value, which counts as much as `PRIOR_IMAGES` images do.
- One image a class cannot tell spread between classes from chance. Such classes are taken together, as strata with one
  unit are in surveys (Cochran, Sampling Techniques, 1977, section 5A.12): their variance is that over all of them,
  times the prior share of what lies within. That share is between 2/3 (accuracies spread evenly over 0 to 1) and 1 (all
  equal); `PRIOR_STRENGTH` makes it 12 / 13, at which coverage is about 98 and 94 % for the two.
- Paired differences count +1 for an image that A alone has right and -1 for one that B alone has. Their interval adds
  one image of each kind to n + 2 (Bonett and Price, 2012), so that agreement everywhere still has a width, but is no
  wider than for two independent means.

`python -m benchmarks.coverage` simulates how often these intervals cover; benchmarks/results has its table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .accuracy import class_hits, whole_numbers

# Shapes: N samples, C classes; "..." is any number of estimates at once.

Z95 = 1.959963984540054  # 97.5 % point of the normal distribution
PRIOR_IMAGES = 4.0  # how much the prior share of variance within classes counts
PRIOR_STRENGTH = 12.0  # of a Beta distribution of class accuracies: 12 / 13 of the variance is within classes
PSEUDO_HITS = 2.0  # right and wrong images added to an accuracy that only sets a variance (Agresti and Coull, 1998)
PSEUDO_WINS = 1.0  # of A and of B, added to a paired difference
PSEUDO_SPREAD = 0.25  # of each, added to a difference that only sets a variance

_Floats = NDArray[np.float64]
Share = Callable[[_Floats], _Floats]
"""Maps weights [C] that sum to 1 to a variance [...]."""


def wilson_interval(num_hits: int, num_samples: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, 1927).

    Args:
        num_hits: Samples that count.
        num_samples: All samples, at least 1.

    Returns:
        (low, high), fractions.

    Raises:
        ValueError: There is no sample, or num_hits is not in 0 .. num_samples.

    Example:
        >>> from fastlt.metrics import wilson_interval
        >>> low, high = wilson_interval(44, 100)
        >>> round(low, 3), round(high, 3)
        (0.347, 0.538)
    """
    if num_samples < 1 or not 0 <= num_hits <= num_samples:
        raise ValueError(
            f"num_hits: got {num_hits} of {num_samples}; expected 0 to num_samples, num_samples at least 1"
        )
    low, high = score_interval(np.float64(num_hits / num_samples), np.float64(num_samples), Z95)
    return float(low), float(high)


def score_interval(p: ArrayLike, n: ArrayLike, z: float) -> tuple[_Floats, _Floats]:
    """Return Wilson's interval (low, high) of proportions p [...] of n [...] images, n any number above 0."""
    p, n = np.asarray(p, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z2 = z * z
    centre = p + z2 / (2 * n)
    half = z * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    # Exact at 0 and 1 but for rounding, which must not part the interval from its estimate
    low: _Floats = np.clip(np.minimum((centre - half) / scale, p), 0.0, 1.0)
    high: _Floats = np.clip(np.maximum((centre + half) / scale, p), 0.0, 1.0)
    return low, high


def mean_interval(
    hits: ArrayLike, totals: ArrayLike, weights: ArrayLike, *, z: float = Z95
) -> tuple[_Floats, _Floats] | None:
    """Return the interval of a weighted mean of class accuracies, right from one image a class up.

    It is Wilson's at the number of images that would give the mean its variance; `fastlt.metrics.intervals` has the
    derivation and the sources. One class alone has Wilson's interval itself.

    Args:
        hits: [..., C] correct images of every class; many means at once have leading dimensions.
        totals: [C] images of every class.
        weights: [C] from 0 up; those of classes without images are shared out among the others.
        z: Half the width, in standard deviations of the normal distribution; 1.96 for 95 %.

    Returns:
        (low [...], high [...]) as fractions, or None if no class with images has weight.

    Raises:
        ValueError: A class has more hits than images or fewer than none, or a weight is no finite number from 0 up.

    Example:
        >>> from fastlt.metrics import mean_interval
        >>> low, high = mean_interval([1, 1, 1, 0], totals=[1, 1, 1, 1], weights=[1, 1, 1, 1])
        >>> round(float(low), 2), round(float(high), 2)
        (0.31, 0.95)
    """
    chosen, share = shares_of(totals, weights)
    if not len(chosen):
        return None
    sizes = np.asarray(totals)[chosen]
    p = np.asarray(hits)[..., chosen] / sizes
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"hits: got {100 * p.min():g} to {100 * p.max():g} % of a class's images; expected 0 to 100 %: hits [C] of "
            "totals [C]"
        )

    def smoothed(part: _Floats) -> _Floats:
        return hit_variance(add_pseudo(p @ part, PSEUDO_HITS, num_images(part, sizes)))

    def plain(part: _Floats) -> _Floats:
        return hit_variance(p @ part)

    n = effective_size(share, sizes, hit_variance(p), plain, smoothed, largest=0.25)
    mean: _Floats = p @ share
    return score_interval(mean, n, z)


def class_mean_intervals(
    hits: NDArray[np.int64], totals: NDArray[np.int64], masks: Mapping[str, NDArray[np.bool_]]
) -> dict[str, tuple[float, float] | None]:
    """Return 95 % intervals of means of class accuracies; see `mean_interval`.

    Args:
        hits: [C] correct samples of every class.
        totals: [C] samples of every class.
        masks: Named sets of classes, bool [C].

    Returns:
        Name -> (low, high) as fractions, or None for a set none of whose classes has a sample.

    Example:
        >>> import numpy as np
        >>> from fastlt.metrics import class_mean_intervals
        >>> hits, totals = np.array([1, 1, 0, 1]), np.array([1, 1, 1, 1])
        >>> low, high = class_mean_intervals(hits, totals, {"few": np.ones(4, dtype=bool)})["few"]
        >>> round(low, 2), round(high, 2)
        (0.31, 0.95)
    """
    intervals = {name: mean_interval(hits, totals, mask) for name, mask in masks.items()}
    return {name: ends and (float(ends[0]), float(ends[1])) for name, ends in intervals.items()}


def weighted_class_accuracy(
    hits: NDArray[np.int64], totals: NDArray[np.int64], weights: ArrayLike
) -> tuple[float, tuple[float, float]] | None:
    """Return the accuracy under given class frequencies, with its 95 % interval; see `mean_interval`.

    Args:
        hits: [C] correct samples of every class.
        totals: [C] samples of every class.
        weights: [C] class frequencies; those of classes without samples are shared out among the others.

    Returns:
        (accuracy, its 95 % interval (low, high)) as fractions, or None if no class with samples has weight.

    Example:
        >>> import numpy as np
        >>> from fastlt.metrics import weighted_class_accuracy
        >>> accuracy, (low, high) = weighted_class_accuracy(np.array([8, 4]), np.array([10, 10]), [0.75, 0.25])
        >>> round(accuracy, 2), round(low, 2), round(high, 2)
        (0.7, 0.47, 0.86)
    """
    ends = mean_interval(hits, totals, weights)
    if ends is None:
        return None
    chosen, share = shares_of(totals, weights)
    return float(hits[chosen] / totals[chosen] @ share), (float(ends[0]), float(ends[1]))


def paired_difference(
    hits_a: ArrayLike, hits_b: ArrayLike, labels: ArrayLike, masks: Mapping[str, NDArray[np.bool_]]
) -> dict[str, tuple[float, tuple[float, float]] | None]:
    """Return how much more often A is right than B on the same samples, with 95 % intervals; see `difference_interval`.

    Args:
        hits_a: bool [N], whether A is right.
        hits_b: bool [N], whether B is.
        labels: Integers [N] from 0 to C - 1.
        masks: Named sets of classes, bool [C], over which class differences are averaged.

    Returns:
        Name -> (A - B, its 95 % interval (low, high)) as fractions, None for a set without samples; under `all` the
        difference over samples.

    Raises:
        ValueError: The shapes differ, or a label is out of range.

    Example:
        >>> import numpy as np
        >>> from fastlt.metrics import paired_difference
        >>> a, b, labels = np.array([1, 1, 1, 0]), np.array([1, 0, 0, 0]), np.array([0, 0, 1, 1])
        >>> difference, (low, high) = paired_difference(a, b, labels, {})["all"]
        >>> round(difference, 2), round(low, 2), round(high, 2)
        (0.5, -0.19, 0.93)
    """
    a, b, label = np.asarray(hits_a, dtype=bool), np.asarray(hits_b, dtype=bool), whole_numbers(labels, "labels")
    if a.shape != b.shape:
        raise ValueError(f"hits_a, hits_b: got shapes {a.shape} and {b.shape}; expected the same samples")
    num_classes = len(next(iter(masks.values()))) if masks else int(label.max(initial=0)) + 1
    only_a, totals = class_hits(a & ~b, label, num_classes)
    only_b, _ = class_hits(b & ~a, label, num_classes)
    both, _ = class_hits(a & b, label, num_classes)
    differences: dict[str, tuple[float, tuple[float, float]] | None] = {}
    for name, weights in {**masks, "all": totals}.items():
        chosen, share = shares_of(totals, weights)
        ends = difference_interval(only_a, only_b, both, totals, weights)
        value = float((only_a - only_b)[chosen] / totals[chosen] @ share)
        differences[name] = ends and (value, (float(ends[0]), float(ends[1])))
    return differences


def difference_interval(
    only_a: ArrayLike, only_b: ArrayLike, both: ArrayLike, totals: ArrayLike, weights: ArrayLike, *, z: float = Z95
) -> tuple[_Floats, _Floats] | None:
    """Return the interval of a weighted mean of class differences between A and B on the same images.

    It is the adjusted interval of Bonett and Price (2012) for two paired proportions, at the number of images that
    would give the mean difference its variance. Images on which A and B agree add no variance; with all of them, the
    interval still has a width. Where that is wider than for two independent means (Newcombe, 1998, method 10), without
    the images showing that A and B are right on opposite ones, it is cut to the latter. A and B exchanged give the
    mirrored interval.

    Args:
        only_a: [..., C] images of every class that A alone has right.
        only_b: [..., C] those that B alone has right.
        both: [..., C] those that both have right.
        totals: [C] images of every class.
        weights: [C] from 0 up; those of classes without images are shared out among the others.
        z: Half the width, in standard deviations of the normal distribution; 1.96 for 95 %.

    Returns:
        (low [...], high [...]) as fractions, or None if no class with images has weight.
    """
    chosen, share = shares_of(totals, weights)
    if not len(chosen):
        return None
    sizes = np.asarray(totals)[chosen]
    a, b = (np.asarray(counts)[..., chosen] / sizes for counts in (only_a, only_b))

    def smoothed(part: _Floats) -> _Floats:
        size = num_images(part, sizes)
        return outcome_variance(*(add_pseudo(wins @ part, PSEUDO_SPREAD, size) for wins in (a, b)))

    def plain(part: _Floats) -> _Floats:
        return outcome_variance(a @ part, b @ part)

    n = effective_size(share, sizes, outcome_variance(a, b), plain, smoothed, largest=1.0)
    wins, losses = (add_pseudo(counts @ share, PSEUDO_WINS, n) for counts in (a, b))
    difference = (a - b) @ share
    half = z * np.sqrt(outcome_variance(wins, losses) / (n + 2 * PSEUDO_WINS))
    below, above = difference - (wins - losses - half), wins - losses + half - difference
    right = [np.asarray(counts) + np.asarray(both) for counts in (only_a, only_b)]
    (down_a, up_a), (down_b, up_b) = (distances(hits, totals, weights, z=z) for hits in right)
    seen = z * np.sqrt(sampling_variance(a, b, share, sizes))
    low: _Floats = difference - np.clip(np.minimum(below, np.maximum(np.hypot(down_a, up_b), seen)), 0, 1 + difference)
    high: _Floats = difference + np.clip(np.minimum(above, np.maximum(np.hypot(up_a, down_b), seen)), 0, 1 - difference)
    return low, high


def sampling_variance(wins: _Floats, losses: _Floats, share: _Floats, sizes: NDArray[np.int64]) -> _Floats:
    """Return the variance of a mean difference that the images themselves show, 0 where all agree."""
    u = share * share / sizes
    single = np.where(sizes == 1, u, 0.0)
    variance: _Floats = (outcome_variance(wins, losses) * (sizes / np.maximum(sizes - 1, 1))) @ (u - single)
    if total := float(single.sum()):
        variance = variance + total * outcome_variance(wins @ single / total, losses @ single / total)
    return variance


def distances(hits: ArrayLike, totals: ArrayLike, weights: ArrayLike, *, z: float) -> tuple[_Floats, _Floats]:
    """Return how far the ends of `mean_interval` lie below and above the mean."""
    chosen, share = shares_of(totals, weights)
    ends = mean_interval(hits, totals, weights, z=z)
    assert ends is not None
    mean: _Floats = np.asarray(hits)[..., chosen] / np.asarray(totals)[chosen] @ share
    return np.maximum(mean - ends[0], 0.0), np.maximum(ends[1] - mean, 0.0)


def hit_variance(accuracy: _Floats) -> _Floats:
    """Return the variance of an outcome that is 1 or 0, from the probability of 1."""
    return accuracy * (1 - accuracy)


def outcome_variance(wins: _Floats, losses: _Floats) -> _Floats:
    """Return the variance of an outcome that is 1, -1 or 0, from the probabilities of 1 and -1."""
    return wins + losses - (wins - losses) ** 2


def add_pseudo(proportion: _Floats, pseudo: float, size: float | _Floats) -> _Floats:
    """Return a proportion among `size` images after adding `pseudo` images that count and as many that do not."""
    return (size * proportion + pseudo) / (size + 2 * pseudo)


def shares_of(totals: ArrayLike, weights: ArrayLike) -> tuple[NDArray[np.int64], _Floats]:
    """Return the classes that have images and weight, and their weights, which sum to 1.

    Raises:
        ValueError: A weight is no finite number from 0 up.
    """
    given = np.asarray(weights, dtype=np.float64)
    if not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError(f"weights: got {given.min():g} to {given.max():g}; expected finite numbers from 0 up")
    share = np.where(np.asarray(totals) > 0, given, 0.0)
    chosen = np.flatnonzero(share > 0)
    return chosen, share[chosen] / max(share.sum(), math.ulp(0))


def num_images(share: _Floats, sizes: NDArray[np.int64]) -> float:
    """Return of how many images drawn at random a mean of class accuracies, weighted by `share` [C], is worth."""
    return 1 / float((share * share / sizes).sum())


def effective_size(
    share: _Floats, sizes: NDArray[np.int64], variances: _Floats, plain: Share, smoothed: Share, *, largest: float
) -> _Floats:
    """Return the number of images, drawn as from one class, that gives the mean outcome the variance that it has.

    Args:
        share: Weights of the classes, [C], positive and summing to 1.
        sizes: [C] images of every class, at least 1.
        variances: [..., C] of the outcomes seen in every class, with division by n_c.
        plain: The variance of an outcome over all classes together.
        smoothed: The same, of outcomes that are smoothed so that it is never 0.
        largest: The largest variance that there can be.
    """
    u = share * share / sizes
    variance: _Floats = np.zeros(variances.shape[:-1])
    single = sizes == 1
    for part in (~single, single):
        total = float(u[part].sum())
        if total == 0:
            continue
        by_class = np.where(part, u, 0.0) / total
        within: _Floats = np.asarray(prior_within(by_class))
        if part is not single:
            unbiased = variances * (sizes / np.maximum(sizes - 1, 1))
            between = plain(by_class) + unbiased @ (by_class * by_class / sizes)
            # Images that tell a class's spread, fewer where outcomes hardly differ
            seen = between / largest / float((by_class * by_class / np.maximum(sizes - 1, 1)).sum())
            ratio = np.divide(unbiased @ by_class, between, out=np.ones_like(between), where=between > 0)
            within = (PRIOR_IMAGES * within + seen * ratio) / (PRIOR_IMAGES + seen)
        variance = variance + total * within * smoothed(by_class)
    size: _Floats = smoothed(share) / variance
    return size


def prior_within(by_class: _Floats) -> float:
    """Return the share of variance within classes that is assumed where images cannot tell; 1 for one class alone."""
    num_classes = 1 / float((by_class * by_class).sum())
    return PRIOR_STRENGTH / (PRIOR_STRENGTH + 1 - 1 / num_classes)
