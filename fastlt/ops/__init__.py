"""Fused operations: each a PyTorch reference, a Triton kernel, a fake and autograd; the only importer of kernels/."""

from fastlt.ops.batch_norm import batch_norm_relu
from fastlt.ops.convolution import grouped_conv
from fastlt.ops.crops import network_inputs, squares
from fastlt.ops.cross_entropy import scaled_cross_entropy
from fastlt.ops.intervals import prior_intervals, tau_intervals
from fastlt.ops.linear import centroid_logits, scaled_logits, tau_normalized_logits
from fastlt.ops.ranking import label_rank

__all__ = [
    "batch_norm_relu",
    "centroid_logits",
    "grouped_conv",
    "label_rank",
    "network_inputs",
    "prior_intervals",
    "scaled_cross_entropy",
    "scaled_logits",
    "squares",
    "tau_intervals",
    "tau_normalized_logits",
]
