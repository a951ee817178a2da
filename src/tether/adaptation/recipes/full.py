"""Plain fine-tuning on labelled images: all weights of a side."""

from __future__ import annotations

from collections.abc import Callable

from tether.adaptation.recipes.class_tuning import ClassTuning
from tether.adaptation.recipes.recipe import Case
from tether.core.protocols import DualEncoder


class FullTuning(ClassTuning):
    """All weights of a side; it learns most and forgets most, so look at ``--interpolate`` (arXiv 2109.01903)."""

    cost = 150.0
    least = 32

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        return (
            f"{case.least} images a class or more are enough to move all weights; with --interpolate less is forgotten"
        )

    def chosen(self, model: DualEncoder) -> Callable[[str], bool]:
        """See ClassTuning."""
        del model
        return lambda name: True
