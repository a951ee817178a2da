"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import TaskHead
    from tether.tasks.classify.views import ViewHead

VIEW_HEADS: Registry[ViewHead] = Registry(
    "view_heads",
    {},
)
"""Heads that look at parts of images in their own pixels, by name: what ``tether classify --with`` takes."""

CLASSIFIER_HEADS: Registry[TaskHead] = Registry(
    "classifier_heads",
    {
        "zero_shot": "tether.tasks.classify.zero_shot:ZeroShotClassifier",
    },
    including=(VIEW_HEADS,),
)
"""Every classifier head by name."""
