"""What a classifier says about images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.ranges import Count, Share, checked


@dataclass(frozen=True, slots=True)
class Scores:
    """Classes against images.

    Attributes:
        classes: the c class names.
        cosine: (b, c) similarity in [-1, 1]; for a model with another geometry, that geometry's.
        probability: (b, c) softmax of ``scale * cosine``; rows sum to 1.
        scale: multiplier of the cosine.
        calibrated: whether ``scale`` was fitted on labelled images; if not, it is the model's own, and the
            probabilities only order the classes of one image.
    """

    classes: tuple[str, ...]
    cosine: Float[Tensor, "b c"]
    probability: Float[Tensor, "b c"]
    scale: float
    calibrated: bool

    @checked
    def order(self, *, top: Count) -> Int[Tensor, "b k"]:
        """Class numbers of the ``top`` most similar, best first, ties to the first class; at most c of them."""
        return torch.argsort(self.cosine, dim=1, descending=True, stable=True)[:, :top]

    @checked
    def labels(self, *, abstain: Share = 0.0) -> tuple[str | None, ...]:
        """The best class of each image, or None where its probability is below ``abstain``."""
        best = self.order(top=1)
        sure = self.probability.gather(1, best)[:, 0] >= abstain
        return tuple(
            self.classes[i] if yes else None for i, yes in zip(best[:, 0].tolist(), sure.tolist(), strict=True)
        )
