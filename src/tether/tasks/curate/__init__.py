"""Steps of curation that look at pairs with a model, on top of those in ``data.curate`` that need none."""

from __future__ import annotations

from collections.abc import Mapping

from tether.data.curate import CURATORS, RecipeStep
from tether.tasks.curate.clip_score import ClipScore
from tether.tasks.curate.embedding_duplicates import EmbeddingDuplicates
from tether.tasks.curate.mask_columns import MaskPairs
from tether.tasks.curate.quality import QualityFilter
from tether.tasks.curate.safety import SafetyFlag
from tether.tasks.curate.text_spotting import Parrot

CURATE_STEPS: Mapping[str, type[RecipeStep]] = {
    **CURATORS,
    "clip_score": ClipScore,
    "embedding_duplicates": EmbeddingDuplicates,
    "mask_pairs": MaskPairs,
    "parrot": Parrot,
    "quality": QualityFilter,
    "safety": SafetyFlag,
}
"""Every step a recipe can name, with a model or without."""

__all__ = ["CURATE_STEPS"]
