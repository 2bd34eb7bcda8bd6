"""The figures of the report, drawn with matplotlib, each as two PNG files: for a light and for a dark page."""

from .accuracy import accuracy_by_class_size, accuracy_by_group, accuracy_by_tau, training
from .errors import confusions, reliability, tail_errors
from .geometry import decision_regions, weight_norms
from .theme import dark_variant

__all__ = [
    "accuracy_by_class_size",
    "accuracy_by_group",
    "accuracy_by_tau",
    "confusions",
    "dark_variant",
    "decision_regions",
    "reliability",
    "tail_errors",
    "training",
    "weight_norms",
]
