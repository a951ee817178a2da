"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import Step

STEPS: Registry[Step] = Registry(
    "steps",
    {
        "composed": "tether.training.steps.composed:ComposedStep",
        "contrastive": "tether.training.steps.presets:ContrastiveStep",
        "distill": "tether.training.steps.presets:DistillStep",
        "hard_negatives": "tether.training.steps.presets:HardNegativeStep",
    },
)
"""Steps by name; one without a name is ``composed``."""
