"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import Step

STEPS: Registry[Step] = Registry(
    "steps",
    {
        "clip_in": "tether.train.steps.presets:ClipInStep",
        "composed": "tether.train.steps.composed:ComposedStep",
        "contrastive": "tether.train.steps.presets:ContrastiveStep",
        "distill": "tether.train.steps.presets:DistillStep",
        "hard_negatives": "tether.train.steps.presets:HardNegativeStep",
        "semantic": "tether.train.steps.presets:SemanticStep",
        "skip_middle": "tether.train.steps.presets:SkipMiddleStep",
        "specs": "tether.train.steps.presets:SpecsStep",
    },
)
"""Steps by name; one without a name is ``composed``."""
