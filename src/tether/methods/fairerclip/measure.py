"""What debias aims at: the worst of the groups that class and attribute make."""

from __future__ import annotations

from tether.evaluate.adaptation.figures import (
    Compared,
    shares_figure,
)
from tether.evaluate.adaptation.measures import Pictured
from tether.evaluate.groups import worst_group_accuracy


class WorstGroupMeasure:
    """Accuracy of the worst of the groups that class and column make, among rows that have a value there."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
        values = seen.values()
        some = [row for row, value in enumerate(values) if value is not None]
        if seen.said is None or not some:
            return []
        labels = [seen.seen_before.labels[row] for row in some]
        before, after = (
            worst_group_accuracy(
                [str(int(number)) for number in one.argmax(dim=1)[some]],
                labels=labels,
                attribute=[str(values[row]) for row in some],
            )
            for one in seen.said
        )
        worst = [min((group.accuracy for group in one.groups), key=lambda share: share.rate) for one in (before, after)]
        name = f"accuracy of the worst group of class and {seen.columns['value']}"
        return [shares_figure(name, worst[0], worst[1], n=len(some), chance=1 / seen.said[0].shape[1])]
