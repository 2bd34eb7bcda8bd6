"""Fused operations: each a PyTorch reference, a Triton kernel, a fake and autograd.

The reference runs on every device, and the tests compare the kernels with it. Only this package imports kernels/.

fastlt itself finds tau and the strength of logit adjustment by `tau_intervals` and `prior_intervals`, scores settings
by `label_rank`, classifiers by `predictions`, and the released nearest class mean by `centroid_logits`; images go
through `squares` and `jittered`, stage 2's heads through the functions of `fastlt.ops.cross_entropy`. Pieces for other
people's scripts are `scaled_logits`, `tau_normalized_logits` and `scaled_cross_entropy`, of a head whose scales are not
folded into its weight, as fastlt's are, and `batch_norm_relu`, which candidates of the GPU benchmark time.
"""

from .batch_norm import batch_norm_relu
from .colours import jittered
from .crops import squares
from .cross_entropy import scaled_cross_entropy
from .intervals import prior_intervals, tau_intervals
from .linear import centroid_logits, scaled_logits, tau_normalized_logits
from .ranking import label_rank, predictions

__all__ = [
    "batch_norm_relu",
    "centroid_logits",
    "jittered",
    "label_rank",
    "predictions",
    "prior_intervals",
    "scaled_cross_entropy",
    "scaled_logits",
    "squares",
    "tau_intervals",
    "tau_normalized_logits",
]
