"""Which images may a person want to look at: prompts tuned on ratings, and the audit of a data set with them."""

from __future__ import annotations

from collections.abc import Mapping

from sklearn.base import BaseEstimator

from tether.tasks.safety.audit import AuditReport, DatasetAudit, FlaggedImage
from tether.tasks.safety.contrast import WordContrast, chi_squared_weights, contrast_words, word_frequencies
from tether.tasks.safety.prompt_classifier import INIT_TEXTS, PromptClassifier
from tether.tasks.safety.prompt_tuning import PromptReport, prompt_loss
from tether.tasks.safety.ratings import RatedLabels, Split, rated_splits, ratings_to_labels

CLASSIFIERS: Mapping[str, type[BaseEstimator]] = {"prompt_classifier": PromptClassifier}
"""Every estimator of the package by its snake_case name; each passes scikit-learn's own suite."""

__all__ = [
    "CLASSIFIERS",
    "INIT_TEXTS",
    "AuditReport",
    "DatasetAudit",
    "FlaggedImage",
    "PromptClassifier",
    "PromptReport",
    "RatedLabels",
    "Split",
    "WordContrast",
    "chi_squared_weights",
    "contrast_words",
    "prompt_loss",
    "rated_splits",
    "ratings_to_labels",
    "word_frequencies",
]
