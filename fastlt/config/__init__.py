"""Settings of every command: frozen dataclasses whose field docstrings are the command line's help."""

from .base import (
    GROUPS,
    INTERPOLATIONS,
    LOADERS,
    LOSSES,
    METHODS,
    PRECISIONS,
    PROTOCOLS,
    SAMPLINGS,
    SHOT_GROUPS,
    Config,
    check_choice,
    check_range,
)
from .evaluate import EvaluateConfig
from .export import ExportConfig
from .predict import PredictConfig
from .rebalance import RebalanceConfig
from .train import TrainConfig

__all__ = [
    "GROUPS",
    "INTERPOLATIONS",
    "LOADERS",
    "LOSSES",
    "METHODS",
    "PRECISIONS",
    "PROTOCOLS",
    "SAMPLINGS",
    "SHOT_GROUPS",
    "Config",
    "EvaluateConfig",
    "ExportConfig",
    "PredictConfig",
    "RebalanceConfig",
    "TrainConfig",
    "check_choice",
    "check_range",
]
