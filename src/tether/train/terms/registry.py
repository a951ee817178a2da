"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.train.terms.term import Term

TERMS: Registry[Term] = Registry(
    "terms",
    {
        "byol": "tether.train.terms.self_supervised:ByolTerm",
        "barlow": "tether.train.terms.strong_views:BarlowTerm",
        "caption": "tether.train.terms.caption:CaptionTerm",
        "concepts": "tether.train.terms.concepts:ConceptTerm",
        "details": "tether.train.terms.details:DetailHinges",
        "experts": "tether.train.terms.experts:ExpertBalance",
        "distill": "tether.train.terms.distill:TowerDistillation",
        "gates": "tether.train.terms.gates:GatePenalty",
        "grounding": "tether.train.terms.grounding:GroundingTerm",
        "simclr": "tether.train.terms.self_supervised:SimclrTerm",
        "prototypes": "tether.train.terms.strong_views:PrototypeTerm",
        "pseudo_labels": "tether.train.terms.pseudo_labels:PseudoLabelTerm",
        "rebuild": "tether.train.terms.rebuild:RebuildTerm",
        "region_text": "tether.train.terms.region_text:RegionTextTerm",
        "rocket": "tether.train.terms.strong_views:RocketTerm",
        "siamese": "tether.train.terms.strong_views:SiameseTerm",
        "similarity": "tether.train.terms.similarity:TeacherSimilarity",
    },
)
"""Terms by name; those of ``OBJECTIVES`` are terms as well."""
