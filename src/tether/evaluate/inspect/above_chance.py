"""Whether the model tells these pairs better than chance does; what presupposes it is said only where it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tether.core.finding import Figure, Finding
from tether.evaluate.bootstrap import interval
from tether.evaluate.inspect.intervals import RESAMPLES, range_of, share, shown, surely_above
from tether.evaluate.inspect.pairing import Pairing, chance_of

LEAST_PAIRS = 20
_EASY = 0.5
"""Chance from which a recall says too little to judge a model by it."""


@dataclass(frozen=True, slots=True)
class Recall:
    """One recall beside what a model that knows nothing reaches.

    Attributes:
        way: ``text to image`` or ``image to text``.
        depth: how many of the first answers are looked at.
        figure: the recall; its interval is the wider of that over queries and that over images.
        chance: recall of ranking at random.
    """

    way: str
    depth: int
    figure: Figure
    chance: float

    @property
    def clear(self) -> bool:
        """Whether the whole interval lies above chance, or chance is so high that nothing can be seen."""
        return self.chance > _EASY or surely_above(self.figure, self.chance)

    def __str__(self) -> str:
        """For a sentence."""
        return f"{self.way} R@{self.depth} {shown(self.figure)} ({range_of(self.figure)}; chance {self.chance:.1%})"


def recalls(pairing: Pairing, *, images: int, k: Sequence[int]) -> list[Recall]:
    """The recalls of both ways at each depth.

    Args:
        pairing: of the pairs.
        images: how many there are.
        k: the depths.
    """
    found = []
    for way, ranks, chance, pool in (
        ("text to image", pairing.text_ranks, pairing.text_chance, images),
        ("image to text", pairing.image_ranks, pairing.image_chance, len(pairing.texts)),
    ):
        for depth in k:
            expected = chance_of(chance, pool=pool, k=depth)
            figure = share(f"{way}, recall at {depth} (chance {100 * expected:.1f} %)", ranks <= depth)
            if way == "text to image":
                figure = _over_images(figure, ranks <= depth, pairing, images=images)
            found.append(Recall(way, depth, figure, expected))
    return found


def _over_images(figure: Figure, hits: Tensor, pairing: Pairing, *, images: int) -> Figure:
    """The figure with an interval that holds also if an image's captions stand or fall together."""
    weight = 1 / torch.bincount(pairing.group, minlength=len(hits)).double()[pairing.group]
    counts = torch.zeros(images, dtype=torch.float64).index_add(0, pairing.image, weight)
    sums = torch.zeros(images, dtype=torch.float64).index_add(0, pairing.image, weight * hits[pairing.group])
    asked = (counts > 0).numpy()
    sums, counts = (side.numpy()[asked][:, None] for side in (sums, counts))
    low, high = interval(np.asarray(sums), counts=np.asarray(counts), resamples=RESAMPLES)[0]
    ends = (low, high, figure.low, figure.high)
    known = [float(end) for end in ends if end is not None]
    return replace(figure, low=min(known), high=max(known))


def without_skill(finding: Finding, *, doubt: str) -> Finding:
    """A finding that presupposes a working model, about one that is in doubt: an alarm stays, all else is unknown."""
    if not doubt or finding.level in ("alarm", "unknown"):
        return finding
    sentence = f"Could not tell: this presupposes a model that tells these pairs apart, and {doubt}."
    return replace(finding, sentence=sentence, level="unknown")
