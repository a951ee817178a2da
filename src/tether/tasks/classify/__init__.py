"""Name images: zero-shot classification with prompts, calibrated confidence and the right to abstain."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import TaskHead
from tether.tasks.classify.attention_views import AttentionViews
from tether.tasks.classify.guided_crops import GuidedCrops
from tether.tasks.classify.prompt_pairs import PromptPairZeroShot
from tether.tasks.classify.views import ViewHead
from tether.tasks.classify.zero_shot import ZeroShotClassifier

VIEW_HEADS: Mapping[str, type[ViewHead]] = {"attention_views": AttentionViews, "guided_crops": GuidedCrops}
"""Heads that look at parts of images in their own pixels, by name: what ``tether classify --with`` takes."""

HEADS: Mapping[str, type[TaskHead]] = {
    **VIEW_HEADS,
    "prompt_pairs": PromptPairZeroShot,
    "zero_shot": ZeroShotClassifier,
}
"""Every classifier head by name."""
