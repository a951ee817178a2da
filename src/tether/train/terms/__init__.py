"""What a step's loss is made of: terms over what was encoded, besides the objectives of ``tether.losses``."""

from __future__ import annotations

from collections.abc import Mapping

from tether.train.terms.caption import CaptionTerm
from tether.train.terms.concepts import ConceptTerm
from tether.train.terms.details import DetailHinges
from tether.train.terms.distill import TowerDistillation
from tether.train.terms.experts import ExpertBalance
from tether.train.terms.gates import GatePenalty
from tether.train.terms.grounding import GroundingTerm
from tether.train.terms.objective import ObjectiveTerm
from tether.train.terms.pseudo_labels import PseudoLabelTerm
from tether.train.terms.rebuild import RebuildTerm
from tether.train.terms.region_text import RegionTextTerm
from tether.train.terms.self_supervised import ByolTerm, SimclrTerm
from tether.train.terms.similarity import TeacherSimilarity
from tether.train.terms.strong_views import BarlowTerm, PrototypeTerm, RocketTerm, SiameseTerm
from tether.train.terms.term import SeenView, Term, TermInputs

__all__ = [
    "TERMS",
    "BarlowTerm",
    "ByolTerm",
    "CaptionTerm",
    "ConceptTerm",
    "DetailHinges",
    "ExpertBalance",
    "GatePenalty",
    "GroundingTerm",
    "ObjectiveTerm",
    "PrototypeTerm",
    "PseudoLabelTerm",
    "RebuildTerm",
    "RegionTextTerm",
    "RocketTerm",
    "SeenView",
    "SiameseTerm",
    "SimclrTerm",
    "TeacherSimilarity",
    "Term",
    "TermInputs",
    "TowerDistillation",
]

TERMS: Mapping[str, type[Term]] = {
    "byol": ByolTerm,
    "barlow": BarlowTerm,
    "caption": CaptionTerm,
    "concepts": ConceptTerm,
    "details": DetailHinges,
    "experts": ExpertBalance,
    "distill": TowerDistillation,
    "gates": GatePenalty,
    "grounding": GroundingTerm,
    "simclr": SimclrTerm,
    "prototypes": PrototypeTerm,
    "pseudo_labels": PseudoLabelTerm,
    "rebuild": RebuildTerm,
    "region_text": RegionTextTerm,
    "rocket": RocketTerm,
    "siamese": SiameseTerm,
    "similarity": TeacherSimilarity,
}
"""Terms by name; those of ``OBJECTIVES`` are terms as well."""
