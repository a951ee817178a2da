"""Which pairs of a pool are kept: steps of a recipe, run over any source here or on Ray."""

from __future__ import annotations

from collections.abc import Mapping

from tether.data.curate.engine.step import ColumnStep, CurateStep, FlagStep, RecipeStep, RewriteStep
from tether.data.curate.metaclip.balance import Balancer, entry_counts, tail_share, threshold_for_share
from tether.data.curate.metaclip.matcher import SubstringMatcher
from tether.data.curate.metaclip.metaclip import MetaClipCurator
from tether.data.curate.metaclip.metaclip2 import WorldCurator
from tether.data.curate.metaclip.metadata import build_metadata
from tether.data.curate.metaclip.multilingual import WorldMatcher, WorldMatches
from tether.data.curate.metaclip.multilingual_balance import WorldBalancer, choose_text
from tether.data.curate.metaclip.multilingual_metadata import LanguageNgrams, build_language_metadata
from tether.data.curate.steps.concepts import concept_frequency, trim_tail
from tether.data.curate.steps.decodes import Decodes
from tether.data.curate.steps.exact_duplicates import ExactDuplicates
from tether.data.curate.steps.image_size import ImageSize
from tether.data.curate.steps.language import LanguageDetector, LanguageRule, Languages
from tether.data.curate.steps.near_duplicates import NearDuplicates
from tether.data.curate.steps.normalise_text import TidyText
from tether.data.curate.steps.numbers import NumberMask, mask_numbers, number_effect, number_ratio
from tether.data.curate.steps.rewrite_captions import RewriteCaptions
from tether.data.curate.steps.score_selection import select_unparroted, subsets_by, top_rows
from tether.data.curate.steps.text_rules import TextRules

CURATORS: Mapping[str, type[RecipeStep]] = {
    "decodes": Decodes,
    "exact_duplicates": ExactDuplicates,
    "language": LanguageRule,
    "metaclip": MetaClipCurator,
    "metaclip2": WorldCurator,
    "near_duplicates": NearDuplicates,
    "number_mask": NumberMask,
    "image_size": ImageSize,
    "rewrite_captions": RewriteCaptions,
    "text_rules": TextRules,
    "tidy_text": TidyText,
}
"""Every step that needs no model: curators, rewriters and flags."""

__all__ = [
    "CURATORS",
    "Balancer",
    "ColumnStep",
    "CurateStep",
    "Decodes",
    "ExactDuplicates",
    "FlagStep",
    "ImageSize",
    "LanguageDetector",
    "LanguageNgrams",
    "LanguageRule",
    "Languages",
    "MetaClipCurator",
    "NearDuplicates",
    "NumberMask",
    "RecipeStep",
    "RewriteCaptions",
    "RewriteStep",
    "SubstringMatcher",
    "TextRules",
    "TidyText",
    "WorldBalancer",
    "WorldCurator",
    "WorldMatcher",
    "WorldMatches",
    "build_language_metadata",
    "build_metadata",
    "choose_text",
    "concept_frequency",
    "entry_counts",
    "mask_numbers",
    "number_effect",
    "number_ratio",
    "select_unparroted",
    "subsets_by",
    "tail_share",
    "threshold_for_share",
    "top_rows",
    "trim_tail",
]
