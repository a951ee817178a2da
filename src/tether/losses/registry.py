"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import Objective

OBJECTIVES: Registry[Objective] = Registry(
    "objectives",
    {
        "clip": "tether.losses.clip:ClipLoss",
        "siglip": "tether.losses.siglip:SigLipLoss",
        "long_clip": "tether.losses.long_clip:LongClipLoss",
        "multi_positive": "tether.losses.multi_positive:MultiPositive",
        "matryoshka": "tether.losses.matryoshka:MatryoshkaLoss",
    },
)
"""Every objective by the name a recipe uses."""
