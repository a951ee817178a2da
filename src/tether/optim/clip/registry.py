"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import GradClipper

CLIPPERS: Registry[GradClipper] = Registry(
    "clippers",
    {
        "none": "tether.optim.clip.global_norm:NoClip",
        "global_norm": "tether.optim.clip.global_norm:GlobalNorm",
    },
)
"""Every clipper by the name a recipe uses."""
