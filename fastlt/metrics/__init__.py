"""Accuracy as the field reports it: all, many, medium, few, with 95 % intervals."""

from .accuracy import (
    FEW,
    MANY,
    ShotAccuracy,
    class_hits,
    class_precision,
    macro_f1,
    shot_accuracy,
    shot_groups,
)
from .intervals import class_mean_intervals, mean_interval, paired_difference, weighted_class_accuracy, wilson_interval

__all__ = [
    "FEW",
    "MANY",
    "ShotAccuracy",
    "class_hits",
    "class_mean_intervals",
    "class_precision",
    "macro_f1",
    "mean_interval",
    "paired_difference",
    "shot_accuracy",
    "shot_groups",
    "weighted_class_accuracy",
    "wilson_interval",
]
