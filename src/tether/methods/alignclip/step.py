"""The step of AlignCLIP: pairs, and what each caption means."""

from __future__ import annotations

from tether.training.steps.composed import OWN
from tether.training.steps.presets import PresetStep, Settings
from tether.training.steps.teachers import WORDS


class SemanticStep(PresetStep):
    """The contrastive step for ``align_clip``: ``batch.extra["semantic"]`` (b, e) holds each caption's meaning.

    The paper asks a frozen sentence encoder (arXiv 2406.17639, section 4). ``encoder: NAME`` is any model that
    ``tether.load`` gives, whose text tower reads the captions without gradient; it is named in the run's configuration
    and never saved with the model. ``words`` counts tokens, which costs nothing and needs no model: captions are alike
    as far as they share words.
    """

    @staticmethod
    def recipe(image: Settings, *, encoder: str = WORDS) -> Settings:
        """See ``ImageView``; ``encoder`` is ``words`` or the name of a model for ``tether.load``."""
        meaning = {"source": "text", "encoder": encoder}
        terms = [{"name": OWN, "extra": {"semantic": "meaning"}}]
        return {"views": {"image": image, "text": {}, "meaning": meaning}, "terms": terms}
