"""fastlt: train long-tailed image recognition fast, then rebalance its classifier."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing itself would take longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from .config import EvaluateConfig, ExportConfig, PredictConfig, RebalanceConfig, TrainConfig
    from .evaluation.results import Results
    from .evaluation.scoring import evaluate
    from .inference.exporting import export
    from .inference.prediction import predict
    from .rebalancing import rebalance
    from .rebalancing.module import rebalance_model
    from .recipes import recipe
    from .run import Run
    from .training.trainer import train

__all__ = [
    "EvaluateConfig",
    "ExportConfig",
    "PredictConfig",
    "RebalanceConfig",
    "Results",
    "Run",
    "TrainConfig",
    "evaluate",
    "export",
    "predict",
    "rebalance",
    "rebalance_model",
    "recipe",
    "train",
]

_HOMES = {
    "EvaluateConfig": "config",
    "ExportConfig": "config",
    "PredictConfig": "config",
    "RebalanceConfig": "config",
    "Results": "evaluation.results",
    "Run": "run",
    "TrainConfig": "config",
    "evaluate": "evaluation.scoring",
    "export": "inference.exporting",
    "predict": "inference.prediction",
    "rebalance": "rebalancing",
    "rebalance_model": "rebalancing",
    "recipe": "recipes",
    "train": "training.trainer",
}
_MODULES = ("data", "features", "models", "ops", "rebalancing", "metrics", "recipes")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import fastlt` and `fastlt --help` stay free of PyTorch."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*globals(), *__all__, *_MODULES})
