"""The step of CLIP-IN: quadruples, and long captions beside them."""

from __future__ import annotations

from typing import Literal

from tether.core.ranges import NonNegative
from tether.training.steps.composed import OWN
from tether.training.steps.presets import PresetStep, Settings


class ClipInStep(PresetStep):
    """``objective(quadruples) + weight * CLIP(long captions)`` (arXiv 2508.02329, our reading of it).

    The batch is one of quadruples, as for the step ``hard_negatives``, whose extra also holds ``long_image``
    (n, 3, h, w) and ``long_text`` (n, l): any number of pairs of another data set, which ``data.loader.SideBySide``
    brings.
    """

    @staticmethod
    def recipe(
        image: Settings,
        *,
        weight: NonNegative = 1.0,
        duplicates: Literal["negatives", "positives"] = "negatives",
    ) -> Settings:
        """See ``ImageView``, and the loss on long captions.

        Args:
            image: settings of every image view.
            weight: of CLIP's loss on the long captions; the paper's value is not known.
            duplicates: of long captions, see ``ClipLoss``; those of the quadruples are the objective's affair.
        """
        images = dict.fromkeys(("image", "negative_image", "long_image"), image)
        texts = {name: {} for name in ("text", "negative_text", "long_text")}
        long = {"name": "clip", "image": "long_image", "text": "long_text", "duplicates": duplicates}
        terms = [
            {"name": OWN, "negative_image": "negative_image", "negative_text": "negative_text"},
            {**long, "weight": weight, "as": "long"},
        ]
        return {"views": images | texts, "terms": terms}
