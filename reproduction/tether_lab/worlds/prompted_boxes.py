"""Boxes and phrases learnt through a prompter or by the patches inside; what a prompter says of the boxes asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tether.losses.boxes import corners, overlap
from tether.models.composed.encoder import ComposedEncoder
from tether.models.heads.prompted import locate, region_embeddings
from tether_lab.worlds import drawn_shapes
from tether_lab.worlds.asked_boxes import BoxBench
from tether_lab.worlds.drawn_shapes import PHRASES
from tether_lab.worlds.in_memory import percent, unit_texts

HEADS, FASTER = 4, 10.0
"""Of the prompter: heads, and how many times faster than the model its new weights learn."""
POOLED: dict[str, Any] = {
    "views": {"image": {"want": "dense"}, "text": {}, "region_text": {}},
    "terms": ["objective", {"name": "region_text"}],
}
PROMPTER: dict[str, Any] = {
    "views": {"image": {"want": "states"}, "text": {}, "region_text": {}},
    "terms": ["objective", {"name": "region_text", "head": "prompter", "box_form": "absolute"}],
    "heads": {"prompter": {"name": "prompter", "heads": HEADS, "saved": "kept", "rate": FASTER}},
}


@dataclass(frozen=True, slots=True)
class Prompted:
    """What a model with a prompter says of the boxes asked for, in percent but for the IoUs.

    Attributes:
        named: boxes whose phrase, of 24, is said best.
        told_apart: of the first two things of an image with different phrases, both take their own of the two.
        iou: mean IoU of true boxes with those that are told of their phrases.
        iou_centre: the same with the mean box of all, at the centre of the image.
    """

    named: float
    told_apart: float
    iou: float
    iou_centre: float


@torch.no_grad()
def prompted_answers(model: ComposedEncoder, bed: BoxBench) -> Prompted:
    """Ask the prompter about each box of the scenes asked for, by the box and by the phrase."""
    text = unit_texts(model, PHRASES)
    hits, apart, own = list[Tensor](), list[bool](), list[Tensor]()
    every = [torch.from_numpy(_shares(drawn.boxes)).float() for drawn in bed.asked.drawn]
    mean = torch.cat(every)
    sides = (mean[:, 2:] - mean[:, :2]).mean(dim=0) / 2
    centre = torch.cat([0.5 - sides, 0.5 + sides])
    blind = list[Tensor]()
    pixels = drawn_shapes.pixels_of(bed.asked)
    for image, boxes, phrases in zip(pixels, every, bed.asked.phrases, strict=True):
        right = torch.tensor([PHRASES.index(phrase) for phrase in phrases])
        cosines = region_embeddings(model, image[None], boxes[None])[0] @ text.T
        hits.append(cosines.argmax(dim=1) == right)
        two = next((place for place, one in enumerate(right.tolist()) if one != right[0]), None)
        if two is not None:
            between = cosines[[0, two]][:, right[[0, two]]]
            apart.append(bool((between.argmax(dim=1) == torch.arange(2)).all()))
        single = torch.tensor([phrases.count(phrase) == 1 for phrase in phrases])
        told = corners(locate(model, image[None], text[right][None])[0])
        own.append(overlap(told, boxes)[0][single])
        blind.append(overlap(centre.expand_as(boxes), boxes)[0][single])
    return Prompted(
        named=percent(torch.cat(hits)),
        told_apart=100 * sum(apart) / max(1, len(apart)),
        iou=float(torch.cat(own).mean().nan_to_num()),
        iou_centre=float(torch.cat(blind).mean().nan_to_num()),
    )


def _shares(boxes: Any) -> Float[Any, "k 4"]:
    return boxes / drawn_shapes.DRAWN
