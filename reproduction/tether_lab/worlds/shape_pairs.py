"""Scenes of two things, whose class is their two shapes, with captions, and a small CLIP of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.types import Batch
from tether.data.sets.scenes import Scene, short
from tether.data.sets.scenes.captions import TEMPLATES
from tether.data.sets.scenes.world import SHAPES
from tether.evaluate.retrieval import recall_at_k
from tether.losses import ClipLoss
from tether.methods.retrieval_align.image_retrieval import image_retrieval
from tether.models import Clip, create
from tether.models.features.penultimate import image_state
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.worlds.in_memory import dice_of, drawn, fit_rows, plain_world, unit_images, unit_texts

SIDE, PATCH, BATCH = 64, 16, 64
BASE_SCENES, BASE_STEPS, BASE_RATE, BASE_DECAY = 6_000, 1_200, 2e-3, 0.1
LEARNT, OTHERS = 27, 9
"""Classes that are learnt, and those of the validation part and of the test part, of 45."""
EACH, POOL_EACH = 40, 40
"""Images of a class that are learnt, and of one that is searched among: of 50 that captions can tell apart."""

WORLD = plain_world(
    things=(2, 2), colours=("red", "yellow", "green", "blue", "purple"), sizes=("large",), backgrounds=("stone", "wood")
)
Said = tuple[tuple[str, str], ...]
"""What captions say of a scene: where it is, and the colour and the shape of its things."""


@dataclass(frozen=True, slots=True)
class CaptionedShapes:
    """Scenes with captions and classes.

    Attributes:
        pixels: (n, 3, 64, 64).
        texts: one caption of each template for each scene, templates and things in any order.
        labels: (n,) place in the list of classes they were drawn for.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    texts: tuple[tuple[str, ...], ...]
    labels: Int[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class ShapeParts:
    """A seed's scenes; outside ``start`` no two have captions that say the same.

    Attributes:
        start: what the base learns from, of all classes.
        learnt: of the classes that are learnt.
        validation: of other classes, to choose by.
        test: of the remaining classes.
    """

    start: CaptionedShapes
    learnt: CaptionedShapes
    validation: CaptionedShapes
    test: CaptionedShapes


@functools.lru_cache(maxsize=1)
def parts(seed: int, smoke: bool) -> ShapeParts:
    """Draw them; which classes are learnt changes with the seed."""
    lab = Lab(seed, smoke=smoke)
    pairs = list(itertools.combinations(sorted(SHAPES), 2))
    order = torch.randperm(len(pairs), generator=lab.generator("classes")).tolist()
    mixed = [pairs[place] for place in order]
    known = set[Said]()

    def some(name: str, classes: Sequence[tuple[str, str]], each: int, *, repeats: bool = False) -> CaptionedShapes:
        dice, scenes = dice_of(lab, name, salt="shape pairs"), dict[tuple[str, str], list[Scene]]()
        while sum(map(len, scenes.values())) < each * len(classes):
            scene = WORLD.draw(dice)
            first, second = sorted(thing.shape for thing in scene.things)
            said = (("", scene.background), *sorted((thing.colour, thing.shape) for thing in scene.things))
            found = scenes.setdefault((first, second), []) if (first, second) in classes else []
            if (first, second) in classes and len(found) < each and (repeats or said not in known):
                found.append(scene)
                known.add(said)
        rows = [(scene, number) for number, name in enumerate(classes) for scene in scenes[name]]
        texts = tuple(
            tuple(
                short(scene, template=template, order="random", background="say", dice=dice)
                for template in dice.shuffled(list(TEMPLATES))
            )
            for scene, _ in rows
        )
        return CaptionedShapes(
            drawn([scene for scene, _ in rows], size=SIDE), texts, torch.tensor([number for _, number in rows])
        )

    each, pool = lab.steps(EACH, 3), lab.steps(POOL_EACH, 3)
    learnt, others = mixed[:LEARNT], (mixed[LEARNT : LEARNT + OTHERS], mixed[LEARNT + OTHERS :])
    rest = (some("learnt", learnt, each), some("validation", others[0], pool), some("test", others[1], pool))
    return ShapeParts(some("start", mixed, lab.steps(BASE_SCENES // len(mixed), 3), repeats=True), *rest)


def base(lab: Lab) -> Clip:
    """A tiny CLIP of all classes, in eval mode, trained at a seed's first call, then read from the user's cache."""

    def teach() -> Clip:
        told = parts(lab.seed, lab.smoke).start
        model = create("tiny", seed=lab.seed, image_size=SIDE, patch=PATCH)
        tokens, chance = token_ids(model, told), lab.generator("captions")
        model.prune_vocabulary_(tokens)
        steps = lab.steps(BASE_STEPS)

        def batch(rows: Tensor) -> Batch:
            return Batch(told.pixels[rows], tokens[rows, torch.randint(tokens.shape[1], rows.shape, generator=chance)])

        fit_rows(
            model,
            batch,
            rows=len(told.labels),
            step=ContrastiveStep(ClipLoss(duplicates="positives"), steps=steps, seed=lab.seed),
            steps=steps,
            batch_size=BATCH,
            learning_rate=BASE_RATE,
            generator=lab.generator("batches"),
            weight_decay=BASE_DECAY,
        )
        model.restore_vocabulary_()
        return model

    return cached_clip("shape-pairs", teach, made_by=Path(__file__), facts=[lab.seed, lab.smoke])


def token_ids(model: Clip, told: CaptionedShapes) -> Int[Tensor, "n t l"]:
    """Of all captions."""
    ids = model.tokenizer([text for texts in told.texts for text in texts])
    return ids.unflatten(0, (len(told.texts), -1))


def figures(model: Clip, pool: CaptionedShapes) -> dict[str, float]:
    """``map`` of the joint embedding, ``r5`` of text to image and their ``mean``, in points."""
    images = unit_images(model, pool.pixels)
    texts = unit_texts(model, [said[0] for said in pool.texts])
    precision = 100 * image_retrieval(images, pool.labels).map
    recall = 100 * recall_at_k(images, texts, k=(5,))["text_to_image_r5"]
    return {"map": precision, "r5": recall, "mean": (precision + recall) / 2}


@torch.no_grad()
def states(model: Clip, pool: CaptionedShapes) -> Float[Tensor, "n w"]:
    """What the joint embeddings of images are projected from."""
    return torch.cat([cast(Tensor, image_state(model, some).tokens)[:, 0] for some in pool.pixels.split(256)])


def state_map(model: Clip, pool: CaptionedShapes) -> float:
    """Mean average precision of ``states``, in points."""
    return 100 * image_retrieval(F.normalize(states(model, pool), dim=1), pool.labels).map
