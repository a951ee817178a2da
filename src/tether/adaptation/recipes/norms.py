"""Only the norm layers' gains and biases move, on labelled images."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn

from tether.adaptation.recipes.class_tuning import ClassTuning, Images
from tether.adaptation.recipes.moving import Sides, prefixes
from tether.adaptation.recipes.recipe import Case
from tether.adaptation.recipes.refusals import refused
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Rate, checked


class NormTuning(ClassTuning):
    """Gains and biases of every norm layer of a side, a few thousand numbers; all matrices rest.

    Source: arXiv 2003.00152 (batch norm alone); the same of layer norms is a usual baseline for few shots.
    """

    cost = 90.0
    least = 2

    @checked
    def __init__(
        self,
        *,
        side: Sides = "image",
        steps: Count = 200,
        batch_size: Count = 32,
        learning_rate: PositiveRate = 1e-3,
        weight_decay: Rate = 0.0,
        images: Images = "crops",
    ) -> None:
        """Take the settings; as ``ClassTuning``, at a rate for gains."""
        super().__init__(
            side=side,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            images=images,
        )

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        if case.least >= 8:
            return ""
        return "a few thousand numbers move, which a few images can bear, and a model is left"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        super().check(model)
        begins = tuple(f"{one}." for one in prefixes(model, self.side))
        if not any(name.startswith(begins) for name in norm_parameters(model)):
            raise refused("no norms", found=self.side)

    def chosen(self, model: DualEncoder) -> Callable[[str], bool]:
        """See ClassTuning."""
        return norm_parameters(model).__contains__


def norm_parameters(model: DualEncoder) -> set[str]:
    """Dotted names of the vectors in norm layers of any library, which their class names tell."""
    return {
        f"{prefix}.{name}"
        for prefix, part in cast(nn.Module, model).named_modules()
        if "norm" in type(part).__name__.lower()
        for name, parameter in part.named_parameters(recurse=False)
        if parameter.ndim == 1
    }
