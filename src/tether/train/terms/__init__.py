"""What a step's loss is made of: terms over what was encoded, besides the objectives of ``tether.losses``."""

from __future__ import annotations

from collections.abc import Mapping

from tether.train.terms.agreement import ByolTerm, SimclrTerm
from tether.train.terms.caption import CaptionTerm
from tether.train.terms.details import DetailHinges
from tether.train.terms.gates import GatePenalty
from tether.train.terms.objective import ObjectiveTerm
from tether.train.terms.similarity import TeacherSimilarity
from tether.train.terms.term import SeenView, Term, TermInputs

__all__ = [
    "TERMS",
    "ByolTerm",
    "CaptionTerm",
    "DetailHinges",
    "GatePenalty",
    "ObjectiveTerm",
    "SeenView",
    "SimclrTerm",
    "TeacherSimilarity",
    "Term",
    "TermInputs",
]

TERMS: Mapping[str, type[Term]] = {
    "byol": ByolTerm,
    "caption": CaptionTerm,
    "details": DetailHinges,
    "gates": GatePenalty,
    "simclr": SimclrTerm,
    "similarity": TeacherSimilarity,
}
"""Terms by name; those of ``OBJECTIVES`` are terms as well."""
