"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.adapt.heads.head import Head

ADAPTED_HEADS: Registry[Head] = Registry(
    "adapted_heads",
    {
        "linear": "tether.adapt.heads.linear:LinearHead",
        "cache": "tether.adapt.heads.cache:CacheHead",
        "order": "tether.adapt.heads.order:OrderHead",
        "defect_texts": "tether.adapt.heads.defect_texts:DefectTextsHead",
        "masks": "tether.adapt.heads.masks:MasksHead",
        "quality": "tether.adapt.heads.quality:QualityHead",
        "word": "tether.adapt.heads.word:WordHead",
    },
)
"""Every kind of head by the name that its file has."""
