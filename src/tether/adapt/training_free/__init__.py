"""A few labelled images added to what class texts say, on frozen embeddings and without training an encoder."""

from __future__ import annotations

from collections.abc import Mapping

from sklearn.base import BaseEstimator

from tether.adapt.training_free.gda import GDAClassifier
from tether.adapt.training_free.text_guided import TextGuidedClassifier
from tether.adapt.training_free.tip_adapter import TipAdapter

TRAINING_FREE: Mapping[str, type[BaseEstimator]] = {"gda": GDAClassifier, "tip_adapter": TipAdapter}
"""Every estimator of the package by its snake_case name; each passes scikit-learn's own suite."""

__all__ = ["TRAINING_FREE", "GDAClassifier", "TextGuidedClassifier", "TipAdapter"]
