"""A shortcut or an attribute taken out of what a trained model says: of its texts, its images, or both."""

from __future__ import annotations

from collections.abc import Mapping

from sklearn.base import BaseEstimator

from tether.adapt.debias.fairer_clip import FairerClip
from tether.adapt.debias.fairer_solver import FairerKernels, FairerSolve
from tether.adapt.debias.hsic import HsicMap, RandomFeatures, hsic_solve
from tether.adapt.debias.lexicon import AttributeLexicon
from tether.adapt.debias.saner import SanerLayer, SanerLoss, group_cosines, saner_loss
from tether.adapt.debias.saner_fit import DebiasedTextEncoder, GatedTokenizer, SanerFit, fit_saner

DEBIASERS: Mapping[str, type[BaseEstimator]] = {"fairer_clip": FairerClip}
"""Every estimator of the package by its snake_case name; each passes scikit-learn's own suite."""

__all__ = [
    "DEBIASERS",
    "AttributeLexicon",
    "DebiasedTextEncoder",
    "FairerClip",
    "FairerKernels",
    "FairerSolve",
    "GatedTokenizer",
    "HsicMap",
    "RandomFeatures",
    "SanerFit",
    "SanerLayer",
    "SanerLoss",
    "fit_saner",
    "group_cosines",
    "hsic_solve",
    "saner_loss",
]
