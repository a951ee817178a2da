"""Masks that name every pixel alike: the figures that masks have to surpass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tether.core.errors import InputError
from tether.evaluate.dense import DenseReport


@dataclass(frozen=True, slots=True)
class OneClass:
    """Masks that give every pixel the class that most labelled pixels have.

    Attributes:
        name: of the class.
        miou: their mean IoU over the classes of the labels, 0 to 1.
        accuracy: their pixel accuracy, 0 to 1.

    Example:
        >>> from tether.evaluate.one_class import OneClass
        >>> OneClass.of({"road": 6, "sky": 2, "car": 0})
        OneClass(name='road', miou=0.375, accuracy=0.75)
    """

    name: str
    miou: float
    accuracy: float

    @classmethod
    def of(cls, pixels: Mapping[str, int]) -> OneClass:
        """The figures of such masks.

        Args:
            pixels: how many each class has in the labels.

        Raises:
            InputError: none has any.
        """
        total = sum(pixels.values())
        if not total:
            raise InputError("labels: no image with a labelled pixel")
        name = max(pixels, key=lambda one: pixels[one])
        share = pixels[name] / total
        return cls(name, share / sum(map(bool, pixels.values())), share)

    def verdict(self, report: DenseReport) -> str:
        """What it reaches, and which figures of masks are not shown to be better: whose interval begins no higher."""
        held = {"mIoU": (report.miou, self.miou), "pixel accuracy": (report.accuracy, self.accuracy)}
        weak = [what for what, (figure, least) in held.items() if figure.interval[0] <= least]
        told = f"{self.name} at every pixel would have mIoU {self.miou:.1%}, pixel accuracy {self.accuracy:.1%}"
        return f"{told}; {' and '.join(weak)} not shown to be better than that" if weak else told
