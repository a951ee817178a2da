"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.adaptation.heads.head import Head

ADAPTED_HEADS: Registry[Head] = Registry(
    "adapted_heads",
    {
        "linear": "tether.adaptation.heads.linear:LinearHead",
        "cache": "tether.adaptation.heads.cache:CacheHead",
        "order": "tether.adaptation.heads.order:OrderHead",
        "defect_texts": "tether.adaptation.heads.defect_texts:DefectTextsHead",
        "masks": "tether.adaptation.heads.masks:MasksHead",
        "quality": "tether.adaptation.heads.quality:QualityHead",
        "word": "tether.adaptation.heads.word:WordHead",
    },
)
"""Every kind of head by the name that its file has."""
