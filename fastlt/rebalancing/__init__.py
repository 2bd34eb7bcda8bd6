"""Stage 2: every method maps a linear head to another linear head."""

from .checkpoint import rebalance_checkpoint
from .curve import TauChoice, TauCurve, prior_curve, tau_curve
from .methods.crt import retrain_classifier
from .methods.logit_adjustment import adjust_logits
from .methods.lws import learn_weight_scaling
from .methods.ncm import nearest_class_mean, nearest_class_mean_predict
from .methods.own import register
from .methods.tau import tau_normalize
from .module import rebalance_model
from .problem import Problem, RebalancedHead
from .run import rebalance

__all__ = [
    "Problem",
    "RebalancedHead",
    "TauChoice",
    "TauCurve",
    "adjust_logits",
    "learn_weight_scaling",
    "nearest_class_mean",
    "nearest_class_mean_predict",
    "prior_curve",
    "rebalance",
    "rebalance_checkpoint",
    "rebalance_model",
    "register",
    "retrain_classifier",
    "tau_curve",
    "tau_normalize",
]
