"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import Step

STEPS: Registry[Step] = Registry(
    "steps",
    {
        "clip_in": "tether.training.steps.presets:ClipInStep",
        "composed": "tether.training.steps.composed:ComposedStep",
        "contrastive": "tether.training.steps.presets:ContrastiveStep",
        "distill": "tether.training.steps.presets:DistillStep",
        "hard_negatives": "tether.training.steps.presets:HardNegativeStep",
        "semantic": "tether.training.steps.presets:SemanticStep",
        "skip_middle": "tether.training.steps.presets:SkipMiddleStep",
        "specs": "tether.training.steps.presets:SpecsStep",
    },
)
"""Steps by name; one without a name is ``composed``."""
