"""Name images: zero-shot classification with prompts, calibrated confidence and the right to abstain."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import TaskHead
from tether.tasks.classify.prompt_pairs import PromptPairZeroShot
from tether.tasks.classify.zero_shot import ZeroShotClassifier

HEADS: Mapping[str, type[TaskHead]] = {"prompt_pairs": PromptPairZeroShot, "zero_shot": ZeroShotClassifier}
"""Every classifier head by name."""
