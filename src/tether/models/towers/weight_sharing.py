"""One tower for images and texts: the stems differ, everything after them is the same (SharedCLIP, arXiv 2406.17639).

Texts go through with a causal mask and are read at their end token, images without one at their class token; both
are arguments of a block's call. ``create("tiny", towers="shared")`` makes such a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether.models.towers.config import SHARED, VisionConfig
from tether.models.towers.text.tower import TextTower
from tether.models.towers.vision.tower import VisionTower


def share_(text: TextTower, visual: VisionTower) -> None:
    """Let the text tower run through the image tower's blocks, final norm, projection and point scale, in place.

    Both keep their own names for them: ``named_parameters`` lists a shared weight once, ``state_dict`` under both.
    """
    text.blocks, text.norm_post, text.projection = visual.blocks, visual.norm_post, visual.projection
    text.point_scale = visual.point_scale


def shared_text(vision: VisionConfig, text: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the text side of a shared tower: the image side's where both must agree and ``text`` says nothing."""
    return {**{name: getattr(vision, name) for name in SHARED}, **text}
