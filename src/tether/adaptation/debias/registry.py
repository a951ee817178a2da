"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

DEBIASERS: Registry[BaseEstimator] = Registry(
    "debiasers",
    {},
)
"""Every estimator of the package by its snake_case name; each passes scikit-learn's own suite."""
