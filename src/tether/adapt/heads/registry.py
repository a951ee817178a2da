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
        "kernel": "tether.adapt.heads.kernel:KernelHead",
        "order": "tether.adapt.heads.order:OrderHead",
        "defect_texts": "tether.adapt.heads.defect_texts:DefectTextsHead",
        "anomaly_adapters": "tether.adapt.heads.anomaly_adapters:AnomalyAdaptersHead",
        "grouping": "tether.adapt.heads.grouping:GroupingHead",
        "masks": "tether.adapt.heads.masks:MasksHead",
        "quality": "tether.adapt.heads.quality:QualityHead",
        "relation": "tether.adapt.heads.relation:RelationHead",
        "sharpener": "tether.adapt.heads.sharpener:SharpenerHead",
        "word": "tether.adapt.heads.word:WordHead",
    },
)
"""Every kind of head by the name that its file has."""
