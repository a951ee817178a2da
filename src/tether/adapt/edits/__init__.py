"""Edits that train a few numbers of a model's own weights."""

from __future__ import annotations

from collections.abc import Mapping

from tether.adapt.edits.svd import AttentionChange, SingularRows, Svd, rank_changes, singular_rank, singular_values
from tether.core.protocols import ModelEdit

WEIGHT_EDITS: Mapping[str, type[ModelEdit]] = {"svd": Svd}
"""Every edit of the package by the name a recipe uses."""

__all__ = [
    "WEIGHT_EDITS",
    "AttentionChange",
    "SingularRows",
    "Svd",
    "rank_changes",
    "singular_rank",
    "singular_values",
]
