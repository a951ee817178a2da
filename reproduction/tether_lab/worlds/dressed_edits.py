"""Clothes changed by a text in several ways, and what judges say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tether.data.sets.people import PARTS, described
from tether.generation.edit.guided_inversion import FICE_WEIGHTS, GuidedInversion
from tether.generation.edit.kept_parts import PartMaps, stacked_maps
from tether_lab.lab.lab import Lab
from tether_lab.worlds import in_memory
from tether_lab.worlds.dressed_people import (
    LOOKS,
    WantedLooks,
    look_net,
    part_net,
    people,
    people_clip,
    people_codec,
    with_look,
)

PEOPLE, STEPS = 60, 100
BODY, HEAD = (2, 3, 4, 5), (1,)
"""Parts that a text may change, the skin of arms and legs with them, and what is kept."""
TEXT_WEIGHT = 3.0
"""Of the text's term beside all others, chosen on the pilots; FICE's is 1, for another encoder."""
WEIGHTS: Mapping[str, float] = {**FICE_WEIGHTS, "clip": TEXT_WEIGHT}
ARMS: Mapping[str, Mapping[str, float]] = {
    "ours": WEIGHTS,
    "clip": {"clip": 1.0},
    "clip_img": {name: FICE_WEIGHTS[name] for name in ("clip", "img")},
    "free": {name: weight for name, weight in WEIGHTS.items() if name != "w_delta"},
}
"""Weights of each way: all terms, the text alone, the text and the ground, all but the codes' spread."""
RATES: Mapping[str, float] = {"ours": 5e-2, "clip": 6.25e-3, "clip_img": 1.25e-2, "free": 5e-2}
"""Of each way: on the pilots the smallest that changes looks at most 2 points less often than the way's best."""


@dataclass(frozen=True, slots=True)
class JudgedLooks:
    """What is said of images, as a mean over them.

    Attributes:
        miou: IoU of the six parts that a second net finds and the true ones before the edit, in points.
        head: PSNR of the true head's pixels, before pasting, in dB.
        looks: changes that a classifier sees, in percent.
        found: likewise by a second CLIP, among texts with every value of what is changed.
        real: 1 minus the cosine to the nearest of 500 real images, for the second CLIP, in hundredths.
    """

    miou: float
    head: float
    looks: float
    found: float
    real: float


def edited(lab: Lab, wanted: WantedLooks, *, weights: Mapping[str, float], lr: float) -> Float[Tensor, "n 3 h w"]:
    """What is generated, before the head is pasted back."""
    codec, clip, net = people_codec(lab), people_clip(lab), part_net(lab)

    def parser(image: Tensor) -> PartMaps:
        return stacked_maps(net(image).softmax(dim=1), body=BODY, head=HEAD)

    editor = GuidedInversion(codec, clip, parser, weights=weights, steps=lab.steps(STEPS), lr=lr)
    return editor.edit(wanted.shown.images, wanted.texts).generated.clamp(0, 1)


def rebuilt(lab: Lab, wanted: WantedLooks) -> Float[Tensor, "n 3 h w"]:
    """The images as the auto-encoder makes them again, without an edit: what can be kept at best."""
    codec = people_codec(lab)
    with torch.no_grad():
        return ((codec.decode(codec.encode(wanted.shown.images * 2 - 1)) + 1) / 2).clamp(0, 1)


def judged(lab: Lab, made: Float[Tensor, "n 3 h w"], wanted: WantedLooks) -> JudgedLooks:
    """Judges see pixels of whole numbers, and are none of what has led."""
    pixels = (made * 255).round().to(torch.uint8)
    shown, image = wanted.shown, pixels.float() / 255
    parts, looks, clip = part_net(lab, judge=True), look_net(lab), people_clip(lab, judge=True)
    with torch.no_grad():
        found, logits = parts(image).argmax(dim=1), dict(zip(LOOKS, looks(image), strict=True))
    truth = shown.parts
    ious = []
    for part in range(len(PARTS)):
        both, either = (found == part) & (truth == part), (found == part) | (truth == part)
        ious.append(both.sum(dim=(1, 2)) / either.sum(dim=(1, 2)).clamp(min=1))
    head = (truth == HEAD[0])[:, None]
    error = ((image - shown.images).square() * head).sum(dim=(1, 2, 3)) / (3 * head.sum(dim=(1, 2, 3)))
    right, seen = 0, 0
    for place, (look, person) in enumerate(zip(wanted.looks, wanted.wanted, strict=True)):
        answer = LOOKS[look].index(getattr(person, look))
        right += int(logits[look][place].argmax()) == answer
        texts = [described(with_look(person, look, value)) for value in LOOKS[look]]
        row, rows = in_memory.unit_pairs(clip, pixels[place : place + 1], texts)
        seen += int((rows @ row[0]).argmax()) == answer
    real = in_memory.unit_pairs(clip, people(lab, "real", count=lab.steps(500, 16)).pixels, ["a person"])[0]
    rows = in_memory.unit_pairs(clip, pixels, ["a person"])[0]
    count = len(made) / 100
    return JudgedLooks(
        100 * float(torch.stack(ious).mean()), float(-10 * error.clamp(min=1e-5).log10().mean()), right / count,
        seen / count, 100 * float((1 - (rows @ real.T).amax(dim=1)).mean()),
    )  # fmt: skip
