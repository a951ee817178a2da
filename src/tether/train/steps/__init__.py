"""The steps that a run's configuration can name."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import Step
from tether.train.steps.caption_similarity import SemanticStep
from tether.train.steps.clip_in import ClipInStep
from tether.train.steps.contrastive import ContrastiveStep, PairForward, patch_count
from tether.train.steps.hard_negatives import HardNegativeStep
from tether.train.steps.skip_middle import SkipMiddleStep
from tether.train.steps.specs import SpecsStep

__all__ = [
    "STEPS",
    "ClipInStep",
    "ContrastiveStep",
    "HardNegativeStep",
    "PairForward",
    "SemanticStep",
    "SkipMiddleStep",
    "SpecsStep",
    "patch_count",
]

STEPS: Mapping[str, type[Step]] = {
    "clip_in": ClipInStep,
    "contrastive": ContrastiveStep,
    "hard_negatives": HardNegativeStep,
    "semantic": SemanticStep,
    "skip_middle": SkipMiddleStep,
    "specs": SpecsStep,
}
"""Steps by name."""
