"""A small CLIP on scenes of one to three things, with captions in an order of choice: good enough to look into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from tether.models.dual import Clip
from tether.papers.testbeds.small_clip import small_clip

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

SIDE, PATCH, LAYERS = 64, 16, 2
MOST_THINGS, STEPS, BATCH = 3, 800, 64

SETTINGS: Mapping[str, Any] = {
    "model": {
        "size": "tiny",
        "image_size": SIDE,
        "patch": PATCH,
        "context": 32,
        "vision": {"layers": LAYERS},
    },
    "batch_size": BATCH,
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "vocabulary": "used",
}
"""Keys of ``RunConfig``."""


def several_clip(lab: Lab, *, order: Literal["size", "random"], ordered: float = 1.0) -> Clip:
    """The model, in eval mode; trained at the first call of a seed, then read from the user's cache.

    Args:
        lab: seed and budget.
        order: in which captions name the things.
        ordered: how often they keep it.
    """
    said = f"order={order},ordered={ordered:g}"
    data = f"scenes:size={SIDE},rows=8192,things=[1,{MOST_THINGS}],templates=plain,{said}"
    return cast(Clip, small_clip(lab, data=data, steps=STEPS, settings=SETTINGS))
