"""Fused operations: each a PyTorch reference, a Triton kernel, a fake and autograd.

The reference runs on every device, and the tests compare the kernels with it. Only this package imports kernels/.
"""

from .batch_norm import batch_norm_relu
from .colours import jittered
from .crops import squares
from .cross_entropy import rescaled_cross_entropy, scaled_cross_entropy
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
    "rescaled_cross_entropy",
    "scaled_cross_entropy",
    "scaled_logits",
    "squares",
    "tau_intervals",
    "tau_normalized_logits",
]
