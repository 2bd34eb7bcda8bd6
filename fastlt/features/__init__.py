"""The features of every image: computed once with a run's backbone, stored, and read in rows."""

from .arrays import Features
from .store import FeatureStore

__all__ = ["FeatureStore", "Features"]
