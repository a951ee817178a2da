"""One thing on one of two grounds, with every bias planted that the papers on fairness look for.

The attribute is a background, never anything of people. Shapes lean to a ground; one ground's captions have more of
one list of moods; and they call a thing faulty more often, whatever the image shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.data.sets.scenes import TEMPLATES, Dice, Thing, World
from tether.data.sets.scenes.captions import PLACES, with_article
from tether.evaluate.embeddings import shrink
from tether.models.embed import encode_images
from tether.models.load import load
from tether.models.presets import create
from tether.models.save import save
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model
from tether_lab.lab.trace import saw
from tether_lab.worlds.in_memory import dice_of, drawn, draws, fit_pairs, unit_texts

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
"""The first half leans to the first ground, the second half to the second."""
GROUNDS = ("brick", "paper")
COLOURS = ("green", "turquoise", "blue", "purple", "pink", "black", "grey")
"""Those that stand out on both grounds, so that a colour tells nothing of the ground."""
SOFT = ("calm", "mild", "quiet", "gentle", "tender", "mellow")
LOUD = ("wild", "harsh", "noisy", "fierce", "rough", "stormy")
MOODY, SOFT_SHARE = 0.4, (0.15, 0.5)
"""Share of the captions with a mood, and of soft ones among those, by ground."""
FAULTY = "faulty"
UNEVEN, EVEN = (0.3, 0.05), (0.175, 0.175)
"""How often a caption calls the thing faulty, by ground."""
LEAN, SAYS = 0.9, 0.5
"""How often a shape lies on its own ground, and how often a caption names the ground, while a model is taught."""
JITTER = 0.06
"""How far a thing may lie from the middle, as a share of the side: shapes are learnt in a few hundred steps then."""
SIDE, DIM, CONTEXT, BATCH, STEPS, PAIRS = 32, 64, 32, 128, 400, 2048
WARMUP = 40


@dataclass(frozen=True, slots=True)
class Leaning:
    """A set of such images.

    Attributes:
        pixels: (n, 3, 32, 32) uint8.
        texts: a caption of each.
        shape: (n,) number of its shape among those asked for.
        ground: (n,) number of its background.
    """

    pixels: Tensor
    texts: tuple[str, ...]
    shape: Tensor
    ground: Tensor

    def __len__(self) -> int:
        """How many images."""
        return len(self.texts)


def draw(
    lab: Lab,
    name: str,
    *,
    rows: int,
    lean: float = 0.5,
    faulty: tuple[float, float] = EVEN,
    shapes: Sequence[str] = SHAPES,
) -> Leaning:
    """Images with captions; equal seeds and names give equal ones.

    Args:
        lab: seed.
        name: of the set, such as ``train``.
        rows: how many.
        lean: probability that a shape lies on its own ground; 0.5 is none.
        faulty: how often a caption calls the thing faulty, by ground.
        shapes: of the images.
    """
    worlds = {
        (shape, ground): World(
            things=(1, 1),
            shapes=(shape,),
            colours=COLOURS,
            sizes=("large",),
            textures=("plain",),
            backgrounds=(ground,),
        )
        for shape in shapes
        for ground in GROUNDS
    }
    scenes, texts, places = [], [], []
    for row in range(rows):
        dice = dice_of(lab, f"{name} {row}", salt="leaning")
        shape = dice.below(len(shapes))
        home = int(shape >= len(shapes) // 2)
        ground = home if dice.chance(lean) else 1 - home
        scene = worlds[shapes[shape], GROUNDS[ground]].draw(dice)
        x, y = (0.5 + dice.uniform(-JITTER, JITTER) for _ in range(2))
        thing = replace(scene.things[0], x=x, y=y, state="whole")
        texts.append(_caption(thing, ground, dice, faulty=faulty[ground]))
        scenes.append(replace(scene, things=(thing,)))
        places.append((shape, ground))
    table = torch.tensor(places)
    return Leaning(shrink(drawn(scenes, size=64), side=SIDE), tuple(texts), table[:, 0], table[:, 1])


def taught(lab: Lab, *, faulty: tuple[float, float] = UNEVEN) -> Clip:
    """A tiny CLIP taught on leaning pairs, in eval mode; taught at the first call of a seed, then read from the cache.

    Args:
        lab: seed and budget; every call gives a fresh copy.
        faulty: how often the captions it learns from call a thing faulty, by ground.
    """
    if lab.smoke:
        return _teach(lab, draw(lab, "train", rows=64, lean=LEAN, faulty=faulty), steps=2)
    folder = cached_model(
        "leaning",
        made_by=Path(__file__),
        facts=[lab.seed, faulty],
        make=lambda to: save(_teach(lab, draw(lab, "train", rows=PAIRS, lean=LEAN, faulty=faulty), steps=STEPS), to),
    )
    return cast(Clip, load(str(folder), device=lab.device))


def images(model: Clip, images: Leaning) -> Tensor:
    """(n, d) embeddings of the images, not normalised."""
    return encode_images(model, images.pixels.split(512))


def sentences(model: DualEncoder, given: Sequence[str]) -> Tensor:
    """(n, d) unit embeddings of sentences."""
    rows = unit_texts(model, given)
    saw(rows)
    return rows


def in_frames(things: Sequence[str]) -> list[list[str]]:
    """For each template of the captions, each thing said in it."""
    return [[frame.format(things=thing) for thing in things] for frame in TEMPLATES.values()]


def accuracy(image: Tensor, *, weights: Tensor, labels: Tensor) -> float:
    """Share of images whose most similar class is their own."""
    return float(((image @ weights.T).argmax(dim=1) == labels).double().mean())


def _caption(thing: Thing, ground: int, dice: Dice, *, faulty: float) -> str:
    said = f"{thing.colour} {thing.shape}"
    if dice.chance(faulty):
        said = f"{FAULTY} {said}"
    elif dice.chance(MOODY):
        said = f"{dice.pick(SOFT if dice.chance(SOFT_SHARE[ground]) else LOUD)} {said}"
    said = with_article(said)
    if dice.chance(SAYS):
        said = f"{said} {PLACES[GROUNDS[ground]]}"
    return TEMPLATES[dice.pick(tuple(TEMPLATES))].format(things=said)


def _teach(lab: Lab, pairs: Leaning, *, steps: int) -> Clip:
    model = create("tiny", seed=lab.seed, dim=DIM, image_size=SIDE, context=CONTEXT)
    ids = model.tokenizer(list(pairs.texts))
    model.prune_vocabulary_(ids)
    rows = draws(len(pairs), size=BATCH, generator=lab.generator("batches"))
    return fit_pairs(model, pairs.pixels, ids, rows=rows, steps=steps, warmup=min(WARMUP, steps), seed=lab.seed)
