"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

ESTIMATORS: Registry[BaseEstimator] = Registry(
    "estimators",
    {
        "concept_direction": "tether.space.concept_direction:ConceptDirection",
        "conformity": "tether.space.conformity:ConformityEstimator",
        "fair_dims": "tether.space.fair_dims:FairDims",
        "linear_mmcl": "tether.space.linear_mmcl:LinearMMCL",
        "outlier_clipper": "tether.space.outlier_clipper:OutlierClipper",
        "text_span": "tether.space.text_span:TextSpan",
        "whitener": "tether.space.whiten:Whitener",
    },
)
"""Every estimator of the package by its snake_case name; each passes scikit-learn's own suite."""
