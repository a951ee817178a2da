"""A learning rate over two stages of one tuning, each with a schedule of its own."""

from __future__ import annotations

from tether.training.schedules import Schedule, StageSchedule


class TwoStages(Schedule):
    """One schedule over the first steps and another one over the rest.

    Example:
        >>> from tether.adaptation.recipes.two_stages import TwoStages
        >>> from tether.training.schedules import Constant, Cosine
        >>> schedule = TwoStages(Cosine(), Constant(), first=2)
        >>> [round(schedule.factor(step, steps=4), 3) for step in range(4)]
        [1.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, one: Schedule, other: Schedule, *, first: int) -> None:
        """Args: one: over the first steps. other: over the rest. first: how many the first steps are."""
        super().__init__()
        self.one, self.other, self.first = one, other, first

    def factor(self, step: int, *, steps: int) -> float:
        """See Schedule."""
        if step < self.first:
            return StageSchedule(self.one, first=0, end=self.first).factor(step, steps=steps)
        return StageSchedule(self.other, first=self.first, end=steps).factor(step, steps=steps)

    def shape(self, progress: float) -> float:
        """That of the second, which it ends with."""
        return self.other.shape(progress)
