"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry
from tether.data.curate.registry import CURATORS

if TYPE_CHECKING:
    from tether.data.curate import RecipeStep

CURATE_STEPS: Registry[RecipeStep] = Registry(
    "curate_steps",
    {
        "clip_score": "tether.tasks.curate.clip_score:ClipScore",
    },
    including=(CURATORS,),
)
"""Every step a recipe can name, with a model or without."""
