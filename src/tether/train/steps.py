"""The steps that a run's configuration can name."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import Step
from tether.train.contrastive import ContrastiveStep, PairForward, patch_count
from tether.train.skip_middle import SkipMiddleStep

__all__ = ["STEPS", "ContrastiveStep", "PairForward", "SkipMiddleStep", "patch_count"]

STEPS: Mapping[str, type[Step]] = {"contrastive": ContrastiveStep, "skip_middle": SkipMiddleStep}
"""Steps by name."""
