"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import TaskHead
    from tether.tasks.segment.segmenter import Segmenter

SEGMENTER_HEADS: Registry[TaskHead] = Registry(
    "segmenter_heads",
    {},
)
"""Foreground of each image's own class."""

SEGMENTERS: Registry[Segmenter] = Registry(
    "segmenters",
    {
        "tokens": "tether.tasks.segment.maskclip:TokenSegmenter",
        "values": "tether.tasks.segment.maskclip:ValueSegmenter",
        "mta": "tether.tasks.segment.mask_heads:MtaSegmenter",
        "maft": "tether.tasks.segment.mask_heads:MaftSegmenter",
    },
)
"""Every segmenter by name."""

SHARPENERS: Registry[Segmenter] = Registry("sharpeners", {})
"""Segmenters whose maps a trained head makes finer: what ``tether segment --sharpen`` takes."""
