"""One thing on a cluttered ground, drawn larger than a small CLIP sees it: what is gained by looking at parts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.types import Batch, ImageSpec
from tether.data.crops import Crop
from tether.data.images import resize_and_crop
from tether.data.sets.scenes import TEMPLATES, Dice, Scene, World, draw_defect, render, short
from tether.losses import ClipLoss
from tether.models import Clip, create
from tether.tasks.classify.views import encode_windows, view_spec, whole
from tether.tasks.classify.zero_shot import ZeroShotClassifier
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.lab.trace import saw
from tether_lab.worlds import in_memory

DRAWN, SEEN, PATCH = 128, 32, 4
"""Pixels of a scene's side, of what the CLIP sees of it, and of a patch there."""
SHAPES = ("square", "triangle", "star", "heart", "cross")
TEXTURES = ("plain", "striped", "dotted", "checkered")
COLOURS = ("red", "yellow", "blue", "purple")
CLASSES: tuple[str, ...] = tuple(f"{texture} {colour}" for texture in TEXTURES for colour in COLOURS)
TEMPLATES_OF_CLASS = tuple(f"a {{}} {shape}" for shape in SHAPES)
"""A class is a texture and a colour; its things have any shape."""
FLAWS = 1
"""Scratches, stains, holes and patches of grain on every image."""
SMALL, USUAL, LARGE, ANY = (10, 13), (10, 29), (42, 52), (10, 52)
"""Diameters in 64ths of the side: 2 to 4 % of the area, 2 to 21, 43 to 66, and all that the CLIP learns from."""
PAIRS, STEPS, FIRST, BATCH, RATE = 5_000, 700, 280, 64, 2e-3
"""``FIRST`` steps show large things alone, whole: textures are learnt in half the time so."""
LEAST_FIRST = 28
CROPPED = (0.25, 1.0)
"""Share of the area that the random crops of training show; after ``FIRST`` every other image is one."""

_GROUNDS = ("paper", "snow", "stone", "grass", "wood", "sand")
_CLASSES = World((1, 1), SHAPES, COLOURS, ("small",), TEXTURES, _GROUNDS, broken=0.0, pairs="all")
_LEARNT = replace(_CLASSES, colours=(*COLOURS, "green", "pink"))


@dataclass(frozen=True, slots=True)
class LoneThings:
    """Images of one thing each.

    Attributes:
        images: n of (3, 128, 128).
        boxes: (n, 4) around the thing, in pixels.
        labels: (n,) place in ``CLASSES``.
    """

    images: list[UInt8[Tensor, "3 h w"]]
    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]

    @property
    def area(self) -> float:
        """Mean share of the image that the boxes have, in per cent."""
        return float(100 * ((self.boxes[:, 2:] - self.boxes[:, :2]).prod(1) / DRAWN**2).mean())

    def right(self, cosine: Float[Tensor, "n c"]) -> float:
        """Per cent named right."""
        saw(cosine)
        return 100 * float((cosine.argmax(1) == self.labels).double().mean())


def lone_things(lab: Lab, name: str, *, count: int, units: tuple[int, int]) -> LoneThings:
    """Draw them by the lab's seed and a name; every class comes about as often as any other."""
    dice = in_memory.dice_of(lab, name, salt="small things")
    scenes = [_scene(_CLASSES, dice, units=units) for _ in range(count)]
    drawn = [render(scene, size=DRAWN) for scene in scenes]
    names = [_class_of(scene) for scene in scenes]
    return LoneThings(
        [torch.from_numpy(one.pixels).permute(2, 0, 1).contiguous() for one in drawn],
        torch.stack([torch.from_numpy(one.boxes[0]).double() for one in drawn]),
        torch.tensor([CLASSES.index(one) for one in names]),
    )


def _scene(world: World, dice: Dice, *, units: tuple[int, int]) -> Scene:
    """One thing of some diameter anywhere, with flaws that lie over everything."""
    scene = world.draw(dice)
    wide = units[0] + dice.below(units[1] - units[0] + 1)
    edge = wide / 128 + 0.01
    x, y = (dice.uniform(edge, 1 - edge) for _ in range(2))
    scene = replace(scene, things=(replace(scene.things[0], units=wide, x=x, y=y),))
    return replace(scene, defects=tuple(draw_defect(scene, dice) for _ in range(FLAWS)))


def _class_of(scene: Scene) -> str:
    return f"{scene.things[0].texture} {scene.things[0].colour}"


def said(scene: Scene, dice: Dice) -> str:
    """A sentence of the generator: always texture, colour and shape, at times the ground."""
    ground = "say" if dice.chance(0.3) else "omit"
    return short(scene, template=dice.pick(tuple(TEMPLATES)), details=("colour", "texture"), background=ground)


def small_things_clip(lab: Lab) -> Clip:
    """A tiny CLIP that learnt things of all sizes by random resized crops; trained at a seed's first call."""
    return cached_clip("small-things", partial(_taught, lab), made_by=Path(__file__), facts=[lab.seed, lab.smoke])


def _taught(lab: Lab) -> Clip:
    chance, dice = lab.generator("views"), in_memory.dice_of(lab, "learnt", salt="small things")
    scenes = [_scene(_LEARNT, dice, units=ANY) for _ in range(lab.steps(PAIRS, 32))]
    texts = [said(scene, dice) for scene in scenes]
    spec, crop = ImageSpec((SEEN, SEEN)), Crop(size=SEEN, scale=CROPPED)
    views = list[list[Tensor]](([], []))
    for scene in scenes:
        pixels = torch.from_numpy(render(scene, size=64).pixels).permute(2, 0, 1)
        views[0].append(resize_and_crop(pixels, spec))
        draw = int(torch.randint(1 << 62, (), generator=chance))
        seen = crop.draw("view", draw=draw, height=64, width=64, spec=spec, others={})
        views[1].append(crop.cut(pixels, seen, spec))
    pixels = torch.stack([torch.stack(some) for some in views])
    model = create("tiny", seed=lab.seed, image_size=SEEN, patch=PATCH, context=16)
    ids = model.tokenizer(texts)
    model.prune_vocabulary_(ids)
    large = torch.tensor([place for place, scene in enumerate(scenes) if scene.things[0].units >= LEAST_FIRST])
    done = itertools.count()

    def batch_of(rows: Tensor) -> Batch:
        if next(done) < FIRST:
            rows = large[rows % len(large)]
            return Batch(pixels[0, rows], ids[rows])
        return Batch(pixels[torch.randint(len(pixels), rows.shape, generator=chance), rows], ids[rows])

    in_memory.fit_rows(
        model,
        batch_of,
        rows=len(texts),
        step=ContrastiveStep(ClipLoss(duplicates="positives"), steps=lab.steps(STEPS), seed=lab.seed),
        steps=lab.steps(STEPS),
        batch_size=min(BATCH, len(texts)),
        learning_rate=RATE,
        generator=lab.generator("batches"),
    )
    model.restore_vocabulary_()
    return model


def whole_rows(model: Clip, things: LoneThings) -> Float[Tensor, "n d"]:
    """Unit rows of the whole images."""
    spec = view_spec(model)
    rows = encode_windows(model, things.images, [[whole(one)] for one in things.images], spec=spec, batch_size=250)
    return torch.nn.functional.normalize(torch.cat(rows), dim=1)


def plain(model: Clip, things: LoneThings) -> Float[Tensor, "n c"]:
    """Cosines of the whole images, by ``TEMPLATES_OF_CLASS``."""
    return (
        whole_rows(model, things) @ ZeroShotClassifier(templates=TEMPLATES_OF_CLASS).prepare(model, CLASSES).weights.T
    )


def descriptions(lab: Lab, *, each: int, irrelevant: int = 0) -> dict[str, list[str]]:
    """Sentences of the generator for every class, of which the last are replaced by those of things of no class."""
    dice = in_memory.dice_of(lab, "descriptions", salt="small things")
    found = {name: list[str]() for name in CLASSES}
    while any(len(some) < each for some in found.values()):
        scene = _scene(_CLASSES, dice, units=SMALL)
        some = found[_class_of(scene)]
        sentence = said(scene, dice)
        if len(some) < each and sentence not in some:
            some.append(sentence)
    for some in found.values():
        for place in range(each - irrelevant, each):
            scene = _scene(_LEARNT, dice, units=SMALL)
            while _class_of(scene) in CLASSES:
                scene = _scene(_LEARNT, dice, units=SMALL)
            some[place] = said(scene, dice)
    return found
