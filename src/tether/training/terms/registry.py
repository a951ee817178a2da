"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.training.terms.term import Term

TERMS: Registry[Term] = Registry(
    "terms",
    {
        "distill": "tether.training.terms.distill:TowerDistillation",
        "similarity": "tether.training.terms.similarity:TeacherSimilarity",
    },
)
"""Terms by name; those of ``OBJECTIVES`` are terms as well."""
