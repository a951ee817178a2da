"""One image at a time restyled by words, with the mask of its thing and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.hash_rng import hash_int
from tether.generation.edit import SemanticStyler, StyleWeights
from tether_lab.lab.lab import Lab
from tether_lab.worlds import recoloured_scenes
from tether_lab.worlds.recoloured_scenes import RecolouredScenes

SCENES, STEPS, CROPS, CROP = 10, 100, 16, 24 / 64
WIDTHS, PATCH, CONTENT, RATE = (8, 16, 32), 2_000.0, 600.0, 3e-3


@dataclass(frozen=True, slots=True)
class Restyled:
    """Of all scenes together.

    Attributes:
        spill: mean change of pixels outside over that inside, in percent.
        change: mean change inside, in steps of 255.
        inside: see ``recoloured_scenes.inside``.
        colour: things whose colour the classifier finds as asked, in percent.
        judge: the same of another CLIP.
        shape: shapes that the classifier still finds, in percent.
    """

    spill: float
    change: float
    inside: float
    colour: float
    judge: float
    shape: float


def prepare(lab: Lab) -> RecolouredScenes:
    """Ten scenes."""
    return recoloured_scenes.prepare(lab, "restyled", count=lab.steps(SCENES, 2))


def restyled(lab: Lab, bed: RecolouredScenes, *, masked: bool, **settings: Any) -> Float[Tensor, "n 3 h w"]:
    """Each scene on its own: the thing by its text and the ground held, or one text for the whole image.

    Args:
        lab: seed and budget.
        bed: of the seed.
        masked: whether the mask is known.
        settings: of ``SemanticStyler``, in place of the bed's.
    """
    weights = StyleWeights(patch=PATCH, content=CONTENT)
    given: dict[str, Any] = {"rate": RATE, "weights": weights, "object_scale": 1.0, **settings}
    found = []
    for place, (image, mask) in enumerate(zip(bed.image, bed.mask, strict=True)):
        wanted, now = (texts[place].split()[1] for texts in (bed.asked, bed.texts))  # the words of colours alone
        styler = SemanticStyler(
            bed.guide, object_text=wanted, source_text=now, mask=mask if masked else None, crops=lab.steps(CROPS, 4),
            crop=CROP, steps=lab.steps(STEPS, 2), widths=WIDTHS,
            seed=hash_int(str(place), seed=lab.seed, salt="restyled") >> 32, **given,
        )  # fmt: skip
        found.append(styler.fit(image, frames=0).image)
    return torch.stack(found)


def pasted(bed: RecolouredScenes, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """What was restyled, inside the mask, and the scene as it was around it."""
    return torch.where(bed.mask[:, None], image, bed.image)


def judged(bed: RecolouredScenes, image: Float[Tensor, "n 3 h w"]) -> Restyled:
    """What came of it."""
    change = (image - bed.image).abs().mean(dim=1)
    within, outside = float(change[bed.mask].mean()), float(change[~bed.mask].mean())
    said = recoloured_scenes.told(bed, image)
    return Restyled(
        100 * outside / max(within, 1e-9), 255 * within, recoloured_scenes.inside(bed, image),
        said["colour"], said["judge"], said["shape"],
    )  # fmt: skip
