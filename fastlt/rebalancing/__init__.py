"""Stage 2: every method maps a linear head to another linear head."""

from .curve import TauChoice, TauCurve, prior_curve, tau_curve
from .ncm import nearest_class_mean, nearest_class_mean_predict
from .stage2 import rebalance
from .tau import tau_normalize

__all__ = [
    "TauChoice",
    "TauCurve",
    "nearest_class_mean",
    "nearest_class_mean_predict",
    "prior_curve",
    "rebalance",
    "tau_curve",
    "tau_normalize",
]
