"""Stage 2: every method maps a linear head to another linear head."""

from .curve import TauCurve, prior_curve, tau_curve
from .stage2 import rebalance
from .tau import tau_normalize

__all__ = ["TauCurve", "prior_curve", "rebalance", "tau_curve", "tau_normalize"]
