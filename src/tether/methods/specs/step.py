"""The step of SPECS: pairs, and captions cut into pieces."""

from __future__ import annotations

from tether.core.ranges import NonNegative, Share
from tether.training.steps.composed import OWN
from tether.training.steps.presets import PresetStep, Settings


class SpecsStep(PresetStep):
    """The contrastive step, and the two hinges of SPECS on captions cut into pieces (arXiv 2509.03897).

    See ``GrowingDetails`` for the texts and ``DetailHinges`` for the hinges; all texts go through the tower in one
    forward, so they cost four times as much. The contrast is the run's objective; the release's is ``{name: clip,
    directions: text_to_image}``.
    """

    @staticmethod
    def recipe(
        image: Settings,
        *,
        lambda_contrast: NonNegative = 1.0,
        lambda_detail: NonNegative = 8.0,
        lambda_neg: NonNegative = 0.8,
        margin: NonNegative | None = None,
        shuffled_first: Share = 0.9,
    ) -> Settings:
        """See ``SpecsLoss``, ``GrowingDetails`` and ``ImageView``; ``lambda_contrast`` weighs the objective."""
        growing = {"source": "text", "rewrite": {"name": "growing", "shuffled_first": shuffled_first}}
        details = {"name": "details", "lambda_detail": lambda_detail, "lambda_neg": lambda_neg, "margin": margin}
        terms = [{"name": OWN, "weight": lambda_contrast}, details]
        return {"views": {"image": image, "text": {}, "growing": growing}, "terms": terms}
