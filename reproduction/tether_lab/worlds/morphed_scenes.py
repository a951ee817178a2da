"""Many scenes morphed at once to other colours, by a cosine and along geodesics, at several rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.generation import RandomViews
from tether.generation.canvases import PixelCanvas
from tether.generation.edit import Morpher
from tether.generation.edit.morph import SimilarityName
from tether_lab.lab.lab import Lab
from tether_lab.worlds import recoloured_scenes
from tether_lab.worlds.recoloured_scenes import RecolouredScenes, small

SCENES, STEPS, VIEWS = 40, 100, 2
RATES = (0.002, 0.004, 0.008, 0.016)
LEVELS = 5
Success = Literal["judge", "colour"]


@dataclass(frozen=True, slots=True)
class Morphed:
    """Of all scenes, at one rate.

    Attributes:
        colour: things whose colour the classifier finds as asked, in percent.
        judge: the same of a second CLIP.
        psnr: of what lies around the thing, against the scene as it was, in decibels.
        shape: shapes that the classifier still finds, in percent.
    """

    colour: float
    judge: float
    psnr: float
    shape: float


def prepare(lab: Lab) -> RecolouredScenes:
    """Forty scenes, the subspaces of whose directions the geodesic lies between."""
    return recoloured_scenes.prepare(lab, "morphed", count=lab.steps(SCENES, 6))


def morphed(
    lab: Lab, bed: RecolouredScenes, *, similarity: SimilarityName, stability: float, rate: float, **settings: Any
) -> Float[Tensor, "n 3 h w"]:
    """All scenes at once, their pixels free.

    Args:
        lab: seed and budget.
        bed: of the seed.
        similarity: of directions and, with ``stability``, to the source.
        stability: weight of keeping the source's row.
        rate: of Adam.
        settings: of ``Morpher``.
    """
    morpher = Morpher(
        bed.guide, text=tuple(bed.asked), source_text=tuple(bed.texts), similarity=similarity, stability=stability,
        views=RandomViews(count=VIEWS, fill=None), steps=lab.steps(STEPS, 2), seed=lab.seed, **settings,
    )  # fmt: skip
    image = small(bed.image)
    return morpher.fit(image, PixelCanvas.of(image), rates={"pixels": rate}, frames=0).image


def around(bed: RecolouredScenes) -> Bool[Tensor, "n h w"]:
    """Pixels at 32 px that the thing does not touch."""
    return ~(small(bed.mask[:, None].expand(-1, 3, -1, -1).float())[:, 0] > 0)


def judged(bed: RecolouredScenes, image: Float[Tensor, "n 3 h w"]) -> Morphed:
    """What came of it."""
    off = (image - small(bed.image)).square().mean(dim=1)
    mean = torch.stack([one[untouched].mean() for one, untouched in zip(off, around(bed), strict=True)])
    said = recoloured_scenes.told(bed, image)
    psnr = float((-10 * mean.clamp(min=1e-8).log10()).mean())
    return Morphed(said["colour"], said["judge"], psnr, said["shape"])


def curve(
    lab: Lab, bed: RecolouredScenes, *, similarity: SimilarityName, stability: float, **settings: Any
) -> list[Morphed]:
    """An arm at every rate."""
    return [
        judged(bed, morphed(lab, bed, similarity=similarity, stability=stability, rate=rate, **settings))
        for rate in RATES
    ]


def at_equal_success(ours: list[Morphed], theirs: list[Morphed], *, by: Success) -> tuple[float, float, float]:
    """Mean decibels of two curves over successes that both reach, and the gap where they reach none.

    A curve is straight between its rates; of rates with the same success the better counts. Curves without a common
    success cannot be compared: both get the second one's decibels at its nearest end, a difference of 0, and the gap
    says how many points of success lie between them.
    """
    curves = []
    for some in (ours, theirs):
        best = dict[float, float]()
        for one in some:
            x = one.judge if by == "judge" else one.colour
            best[x] = max(one.psnr, best.get(x, one.psnr))
        curves.append((np.array(sorted(best)), np.array([best[x] for x in sorted(best)])))
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    levels = np.linspace(low, high, LEVELS) if low < high else np.array([(low + high) / 2])
    mine, other = (float(np.interp(levels, *points).mean()) for points in curves)
    return (other if low > high else mine), other, max(0.0, float(low - high))
