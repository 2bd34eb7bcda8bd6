"""Stage 2: every method maps a linear head to another linear head."""

from .crt import retrain_classifier
from .curve import TauChoice, TauCurve, prior_curve, tau_curve
from .logit_adjustment import adjust_logits
from .lws import learn_weight_scaling
from .ncm import nearest_class_mean, nearest_class_mean_predict
from .stage2 import rebalance
from .tau import tau_normalize

__all__ = [
    "TauChoice",
    "TauCurve",
    "adjust_logits",
    "learn_weight_scaling",
    "nearest_class_mean",
    "nearest_class_mean_predict",
    "prior_curve",
    "rebalance",
    "retrain_classifier",
    "tau_curve",
    "tau_normalize",
]
