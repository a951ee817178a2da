"""Scenes of one thing that shall get another colour, with true masks, and what judges say of them afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.data.sets.scenes import render
from tether.data.sets.scenes.captions import PLACES
from tether.generation.seen import unit_images
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.worlds import in_memory
from tether_lab.worlds.made_scenes import (
    COLOURS,
    GROUNDS,
    SHAPES,
    SIDE,
    Classifier,
    classifier,
    held_out,
    scene_clip,
)


@dataclass(frozen=True, slots=True)
class RecolouredScenes:
    """What is edited, for whom, and who judges.

    Attributes:
        image: (n, 3, 64, 64) in 0 to 1.
        mask: True where the thing is, however little of a pixel.
        texts: what each shows.
        asked: the same with another colour.
        labels: numbers of the colour that is asked for and of the shape.
        guide: the CLIP that leads; it knows every pair that is asked for.
        judge: another, of other weights and other scenes.
        classifier: of colours and shapes.
    """

    image: Float[Tensor, "n 3 h w"]
    mask: Bool[Tensor, "n h w"]
    texts: list[str]
    asked: list[str]
    labels: Int[Tensor, "n 2"]
    guide: Clip
    judge: Clip
    classifier: Classifier


def prepare(lab: Lab, name: str, *, count: int) -> RecolouredScenes:
    """Draw scenes by the lab's seed and a name, and teach models or read them from the cache."""
    world = in_memory.plain_world(things=(1, 1), shapes=SHAPES, colours=COLOURS, sizes=("huge",), backgrounds=GROUNDS)
    dice, draws = in_memory.dice_of(lab, name, salt="recoloured scenes"), lab.generator(name)
    scenes, wanted = [], list[str]()
    while len(scenes) < count:
        scene = world.draw(dice)
        colour, shape = scene.things[0].colour, scene.things[0].shape
        others = [one for one in COLOURS if one != colour and not held_out(one, shape)]
        if not held_out(colour, shape):
            scenes.append(scene)
            wanted.append(others[int(torch.randint(len(others), (1,), generator=draws))])
    drawn = [render(scene, size=2 * SIDE) for scene in scenes]
    said = [(scene.things[0].colour, scene.things[0].shape, PLACES[scene.background]) for scene in scenes]
    return RecolouredScenes(
        torch.stack([torch.from_numpy(one.pixels).permute(2, 0, 1) for one in drawn]).float() / 255,
        torch.stack([torch.from_numpy(one.labels) > 0 for one in drawn]),
        [" ".join(("a", *one)) for one in said],
        [" ".join(("a", colour, *one[1:])) for colour, one in zip(wanted, said, strict=True)],
        torch.tensor([(COLOURS.index(c), SHAPES.index(s)) for c, (_, s, _) in zip(wanted, said, strict=True)]),
        scene_clip(lab).requires_grad_(False),
        scene_clip(lab, judge=True).requires_grad_(False),
        classifier(lab),
    )


def small(image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 i j"]:
    """At the side that models and classifier know."""
    return F.avg_pool2d(image, image.shape[-1] // SIDE)


@torch.no_grad()
def told(bed: RecolouredScenes, image: Float[Tensor, "n 3 h w"]) -> dict[str, float]:
    """Of images after an edit, in percent: how often classifier and judge name the colour that was asked for.

    Args:
        bed: of the seed.
        image: in 0 to 1, of 32 or 64 px.
    """
    seen = small(image)
    colour, shape = bed.classifier.right(seen * 2 - 1, bed.labels)
    rows = unit_images(bed.judge, seen)
    every = [
        [text.replace(COLOURS[int(label)], other, 1) for other in COLOURS]
        for text, label in zip(bed.asked, bed.labels[:, 0], strict=True)
    ]
    texts = in_memory.unit_texts(bed.judge, [one for some in every for one in some])
    named = (texts.view(len(rows), len(COLOURS), -1) @ rows[:, :, None])[..., 0].argmax(dim=1)
    return {"colour": colour, "shape": shape, "judge": in_memory.percent(named == bed.labels[:, 0])}


@torch.no_grad()
def inside(bed: RecolouredScenes, image: Float[Tensor, "n 3 h w"]) -> float:
    """Mean cosine, for the judge, of where the thing alone has moved and of where the texts say."""
    mask = bed.mask[:, None].float()
    rows = unit_images(bed.judge, small(image * mask)) - unit_images(bed.judge, small(bed.image * mask))
    before, after = (in_memory.unit_texts(bed.judge, some) for some in (bed.texts, bed.asked))
    return float(F.cosine_similarity(rows, after - before).mean())
