r"""For every sample the exact interval of tau on which it is classified right: one product instead of one per tau.

tau-normalization divides each class's logit by a power of its weight's norm: `score_j(tau) = z_j / n_j^tau` with
`z_j = x . w_j` and `n_j = ||w_j||`. tau is usually chosen by running the classifier for each value of a grid. One
product gives the answer for every tau at once:

    log score                                  each class is a straight line in tau:
    |\                                         height log z_j, slope -log n_j
    | \   rival a (large norm: falls fast)
    |  \                                       label above a   from  low  on
    |---\--------._____ label                  label above b   up to high
    |    \           ______--- rival b (norm below 1: rises)
    |     \  ____---    :
    |  __---            :
    |---  :\            :
    +-----|-----------|-----------------> tau
         low         high                      right exactly on (low, high)

Proof.
1. Let the label's logit be positive, z_y > 0. A rival with z_j <= 0 scores at most 0 at every tau and never wins.
2. For z_j > 0 take logarithms: the label wins if and only if log z_y - tau log n_y > log z_j - tau log n_j.
3. That is tau (log n_j - log n_y) > log z_j - log z_y, which is linear in tau. The two lines cross at
   t_j = (log z_j - log z_y) / (log n_j - log n_y).
4. n_j > n_y requires tau > t_j, and n_j < n_y requires tau < t_j. If n_j = n_y, z_j and z_y decide for every tau.
5. So the label is right exactly on (max of t_j over n_j > n_y, min of t_j over n_j < n_y): one interval, found by a
   running maximum and a running minimum.
6. If z_y < 0, any rival with z_j >= 0 beats the label at every tau. If all logits are negative, the lines are
   -(log |z_j| - tau log n_j): the crossings t_j are the same, and the two sides are exchanged.
7. If z_y = 0, the label scores 0 at every tau: it wins if and only if no rival is positive and no earlier one is 0.

Conventions.
- Intervals are open: an end is a crossing, where either answer is right, and belongs to no interval.
- Identical lines (equal norm and equal logit, as for duplicated classes) tie at every tau. The lower index wins, as in
  argmax. To tie to the last bit, the label's logit must come out of the same arithmetic as its rivals': all tiles of a
  kernel add the same terms in the same order, and on a CPU, where BLAS may round the last columns of a product
  differently, duplicated classes share one logit.
- A class of zero norm scores 0 at every tau. Logits below the smallest normal number count as 0.
- A sample that is never right has the interval (inf, -inf). Finite input gives no NaN.

The maximum and the minimum do not depend on the order of the rivals: tiles and chunks merge exactly, bit for bit the
same in every run, and nothing of size [N, C] is kept. The accuracy at tau is the weighted number of intervals that hold
tau (`fastlt.rebalancing.tau_curve`).

Logit adjustment, z_j + b_j - tau log prior_j, is a line in tau to begin with: steps 3 to 5 without the logarithms. (A
bias outside the scale would bend the lines of tau-normalization, which has none.)

On a GPU a row in which nothing is positive is rare: the tile kernel leaves it open, and the kernel that merges the
tiles' bounds decides it; values are read once, at the end of a call. On a CPU the bounds are fused in C++ for float32:
it reads a chunk of logits once, in cache.
"""

import torch
from torch import Tensor

from . import backend, reference
from .checks import accumulator, check_labelled, check_unread, indices, product_dtype
from .linear import line

_intervals = torch.library.custom_op("fastlt::intervals", reference.intervals, mutates_args=())
_log_norms = torch.library.custom_op("fastlt::log_norms", reference.log_norms, mutates_args=())
backend.register_kernel(_intervals, "intervals", "intervals")
backend.register_kernel(_log_norms, "intervals", "log_norms")


@_intervals.register_fake
def _(features, weight, labels, slope, shift, log):  # type: ignore[no-untyped-def]
    low = features.new_empty(features.shape[0], dtype=accumulator(features.dtype))
    return low, torch.empty_like(low)


@_log_norms.register_fake
def _(weight):  # type: ignore[no-untyped-def]
    return weight.new_empty(weight.shape[0], dtype=accumulator(weight.dtype))


@torch.no_grad()
def tau_intervals(features: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the open interval (low, high) of taus at which tau-normalised logits put each sample's label first.

    `fastlt.ops.intervals` has the proof. The ends are crossings, where either answer is right, and belong to no
    interval. A sample that is never right gets (inf, -inf). Of two identical lines (same norm, same logit) the lower
    index wins, as in argmax. A class of zero norm scores 0 at every tau, and logits below the smallest normal number
    count as 0. Finite input gives no NaN.

    Args:
        features: [N, D] on any device, as in `scaled_logits`. Logits are summed and compared in float32 (float64 for
            float64). bfloat16 inputs change about 0.1 % of the decisions: report in float32.
        weight: [C, D]; a head's bias plays no part in tau-normalization.
        labels: Integers [N] in 0..C-1.

    Returns:
        low [N] and high [N], float32 (float64 for float64).

    Raises:
        ValueError: A shape, type or device does not fit, a label is out of range, or weight is not finite. Values are
            read on every device, one synchronisation a call, but not inside torch.compile.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> weight, labels = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> ops.tau_intervals(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), weight, labels)
        (tensor([  -inf, 0.5000]), tensor([0.5000,    inf]))
    """
    check_labelled(features, weight, labels, {})
    dtype = product_dtype(features, weight)
    weight = weight.to(dtype)
    slope = _log_norms(weight)
    low, high = _intervals(features.to(dtype), weight, indices(labels, len(weight)), slope, None, True)
    check_unread(features, weight, labels, {}, witness=slope)
    return low, high


@torch.no_grad()
def prior_intervals(
    features: Tensor, weight: Tensor, labels: Tensor, log_prior: Tensor, *, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the open interval (low, high) of taus at which logit adjustment puts each sample's label first.

    Its scores are z_j + b_j - tau log_prior_j (Menon et al., 2021, equation 9): lines as in `tau_intervals` without the
    logarithm. The conventions are the same; equal priors and equal logits are identical lines.

    Args:
        features: [N, D], as in `tau_intervals`.
        weight: [C, D].
        labels: Integers [N] in 0..C-1.
        log_prior: [C], finite.
        bias: [C], or None.

    Returns:
        low [N] and high [N], float32 (float64 for float64).

    Raises:
        ValueError: As in `tau_intervals`, or bias or log_prior does not fit or is not finite.

    Example:
        >>> import torch
        >>> from fastlt import ops
        >>> features, labels = torch.tensor([[2.0, 1.0]]), torch.tensor([0])
        >>> ops.prior_intervals(features, torch.eye(2), labels, torch.tensor([0.0, -1.0]))
        (tensor([-inf]), tensor([1.]))
    """
    vectors = {"log_prior": log_prior, "bias": bias}
    check_labelled(features, weight, labels, vectors)
    dtype = product_dtype(features, weight)
    slope, shift = line(dtype, log_prior, None, bias)
    weight = weight.to(dtype)
    low, high = _intervals(features.to(dtype), weight, indices(labels, len(weight)), slope, shift, False)
    check_unread(features, weight, labels, vectors)
    return low, high
