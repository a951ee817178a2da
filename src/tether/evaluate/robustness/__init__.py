"""What a model does when the world is no longer that of its training."""

from __future__ import annotations

from tether.evaluate.robustness.spurious import (
    SpuriousAccuracy,
    SpuriousPairs,
    SpuriousWorld,
    theory_accuracy,
)
from tether.evaluate.robustness.typos import TypoRobustness, typo_robustness

__all__ = [
    "SpuriousAccuracy",
    "SpuriousPairs",
    "SpuriousWorld",
    "TypoRobustness",
    "theory_accuracy",
    "typo_robustness",
]
