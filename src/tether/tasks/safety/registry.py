"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

CLASSIFIERS: Registry[BaseEstimator] = Registry(
    "classifiers",
    {
        "prompt_classifier": "tether.tasks.safety.prompt_classifier:PromptClassifier",
    },
)
"""Every estimator of the package by its snake_case name; each passes scikit-learn's own suite."""
