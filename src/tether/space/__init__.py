"""What shape the embedding space has: scikit-learn estimators fitted on embeddings, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from sklearn.base import BaseEstimator

from tether.space.normality import NormalityReport, normality
from tether.space.whiten import Whitener, circle_slerp, redundant_features

ESTIMATORS: Mapping[str, type[BaseEstimator]] = {"whitener": Whitener}
"""Every estimator of the room by its snake_case name; each passes scikit-learn's own suite."""

__all__ = [
    "ESTIMATORS",
    "NormalityReport",
    "Whitener",
    "circle_slerp",
    "normality",
    "redundant_features",
]
