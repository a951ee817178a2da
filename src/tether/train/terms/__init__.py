"""What a step's loss is made of: terms over what was encoded, besides the objectives of ``tether.losses``."""

from __future__ import annotations

from collections.abc import Mapping

from tether.train.terms.caption import CaptionTerm
from tether.train.terms.details import DetailHinges
from tether.train.terms.distill import TowerDistillation
from tether.train.terms.gates import GatePenalty
from tether.train.terms.objective import ObjectiveTerm
from tether.train.terms.similarity import TeacherSimilarity
from tether.train.terms.term import SeenView, Term, TermInputs

__all__ = [
    "TERMS",
    "CaptionTerm",
    "DetailHinges",
    "GatePenalty",
    "ObjectiveTerm",
    "SeenView",
    "TeacherSimilarity",
    "Term",
    "TermInputs",
    "TowerDistillation",
]

TERMS: Mapping[str, type[Term]] = {
    "caption": CaptionTerm,
    "details": DetailHinges,
    "distill": TowerDistillation,
    "gates": GatePenalty,
    "similarity": TeacherSimilarity,
}
"""Terms by name; those of ``OBJECTIVES`` are terms as well."""
