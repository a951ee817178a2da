"""How good photos are, by opposite prompts of a model, and how sharp, by their pixels alone."""

from tether.tasks.quality.scorer import QualityScorer
from tether.tasks.quality.sharpness import sharpness
from tether.tasks.quality.windows import native_windows

__all__ = ["QualityScorer", "native_windows", "sharpness"]
