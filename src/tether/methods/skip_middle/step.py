"""The step of Skip-the-Middle: pairs, and the gates' penalty."""

from __future__ import annotations

from tether.core.ranges import NonNegative, Positive, Share
from tether.methods.skip_middle.gate_controller import Rule
from tether.training.steps.composed import OWN
from tether.training.steps.presets import PresetStep, Settings


class SkipMiddleStep(PresetStep):
    """The contrastive step plus the gates' penalty (arXiv 2506.21103), for models with ``gate: mirror`` in a tower."""

    @staticmethod
    def recipe(
        image: Settings,
        *,
        start: Share = 1.0,
        end: Share = 0.5,
        rule: Rule = "proportional",
        gain: Positive = 1e-3,
        dead_zone: NonNegative = 0.01,
    ) -> Settings:
        """See ``GatePenalty`` and ``ImageView``."""
        gates = {"name": "gates", "start": start, "end": end, "rule": rule, "gain": gain, "dead_zone": dead_zone}
        return {"views": {"image": image, "text": {}}, "terms": [OWN, gates]}
