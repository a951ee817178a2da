"""The steps that a run's configuration can name."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.protocols import Step
from tether.train.steps.composed import ComposedStep
from tether.train.steps.module import StepModule, ViewRows, loss_inside
from tether.train.steps.presets import (
    ClipInStep,
    ContrastiveStep,
    DistillStep,
    HardNegativeStep,
    SemanticStep,
    SkipMiddleStep,
    SpecsStep,
)

__all__ = [
    "STEPS",
    "ClipInStep",
    "ComposedStep",
    "ContrastiveStep",
    "DistillStep",
    "HardNegativeStep",
    "SemanticStep",
    "SkipMiddleStep",
    "SpecsStep",
    "StepModule",
    "ViewRows",
    "loss_inside",
]

STEPS: Mapping[str, type[Step]] = {
    "clip_in": ClipInStep,
    "composed": ComposedStep,
    "contrastive": ContrastiveStep,
    "distill": DistillStep,
    "hard_negatives": HardNegativeStep,
    "semantic": SemanticStep,
    "skip_middle": SkipMiddleStep,
    "specs": SpecsStep,
}
"""Steps by name; one without a name is ``composed``."""
