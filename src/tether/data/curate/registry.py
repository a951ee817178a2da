"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.data.curate.engine.step import RecipeStep

CURATORS: Registry[RecipeStep] = Registry(
    "curators",
    {
        "decodes": "tether.data.curate.steps.decodes:Decodes",
        "exact_duplicates": "tether.data.curate.steps.exact_duplicates:ExactDuplicates",
        "language": "tether.data.curate.steps.language:LanguageRule",
        "metaclip": "tether.data.curate.metaclip.metaclip:MetaClipCurator",
        "near_duplicates": "tether.data.curate.steps.near_duplicates:NearDuplicates",
        "number_mask": "tether.data.curate.steps.numbers:NumberMask",
        "image_size": "tether.data.curate.steps.image_size:ImageSize",
        "text_rules": "tether.data.curate.steps.text_rules:TextRules",
        "tidy_text": "tether.data.curate.steps.normalise_text:TidyText",
    },
)
"""Every step that needs no model: curators, rewriters and flags."""
