"""Scenes told in several wordings, and near misses of them: texts that answer texts, beside images and captions."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tether.core.types import Batch
from tether.data.sets.scenes import TEMPLATES, Dice, Scene, long, short
from tether.data.sets.scenes.negatives import swap_attribute
from tether.evaluate.retrieval import recall_at_k
from tether.losses import ClipLoss
from tether.models import Clip, create
from tether.training.steps.composed import ComposedStep
from tether_lab.lab.lab import Lab
from tether_lab.worlds.in_memory import draws, fit_batches, unit_pairs
from tether_lab.worlds.reworded import SIDE, WORLD, draw_scenes

CONTEXT, BATCH, WARMUP = 64, 64, 30
WORDINGS, NEGATIVES = 4, 2
"""Of each scene: how often it is told, in different frames and any order of its things; and near misses of it, in which
two things have exchanged their colours."""
FRAMES = tuple(TEMPLATES)
DETAILS = 3
"""Sentences of a long caption after its first one."""
TAU = 0.05
Kind = Literal["images", "pairs", "triplets"]


@dataclass(frozen=True, slots=True)
class ToldScenes:
    """Scenes that all show something else, and what is said of them.

    Attributes:
        pixels: (n, 3, 32, 32).
        wordings: of each scene, all true of it.
        negatives: of each scene, all wrong by the colours of two things.
        long: one caption of several sentences of each scene.
    """

    pixels: Tensor
    wordings: tuple[tuple[str, ...], ...]
    negatives: tuple[tuple[str, ...], ...]
    long: tuple[str, ...]

    def __len__(self) -> int:
        """How many scenes."""
        return len(self.long)


@dataclass(frozen=True, slots=True)
class FoundTexts:
    """What a model finds on held-out scenes, in percent.

    Attributes:
        text: recall at 1 of text to text: a wording looks for the other one of its scene, among those of all scenes and
            a near miss of each.
        told_apart: share of the wordings that are nearer to the other one than to its near miss; chance is 50.
        image: recall at 1 of image to text, the mean over short and over long captions.
    """

    text: float
    told_apart: float
    image: float


@functools.lru_cache(maxsize=4)
def told(split: Literal["train", "test"], *, count: int, seed: int) -> ToldScenes:
    """Of ``count`` scenes those that can be mistaken, each once."""
    drawn = draw_scenes(split, count=count, seed=seed)
    dice = Dice(np.random.default_rng([seed, 3, ("train", "test").index(split)]))
    rows, wordings, negatives, seen = [], [], [], set()
    for row, scene in enumerate(drawn.scenes):
        shown = tuple(sorted((thing.colour, thing.shape) for thing in scene.things))
        twins = [swap_attribute(scene, dice, world=WORLD) for _ in range(NEGATIVES)]
        wrong = tuple(_worded(twin.other, dice.pick(FRAMES), dice) for twin in twins if twin is not None)
        if shown in seen or len(wrong) < NEGATIVES:
            continue
        seen.add(shown)
        rows.append(row)
        wordings.append(tuple(_worded(scene, frame, dice) for frame in dice.shuffled(FRAMES)[:WORDINGS]))
        negatives.append(wrong)
    captions = tuple(long(drawn.scenes[row], order="random", most=DETAILS, dice=dice) for row in rows)
    return ToldScenes(drawn.pixels[rows], tuple(wordings), tuple(negatives), captions)


def _worded(scene: Scene, frame: str, dice: Dice) -> str:
    return short(scene, template=frame, order="random", dice=dice)


class Course:
    """Trainings on one set of scenes: every arm sees the same images with the same captions in the same order.

    Args:
        lab: seed of weights and order.
        data: to train on.
    """

    def __init__(self, lab: Lab, data: ToldScenes) -> None:
        """Read all texts."""
        self._lab, self._data = lab, data
        tokenizer = create("tiny", seed=lab.seed, image_size=SIDE, context=CONTEXT).tokenizer
        count = len(data)
        self._wordings = tokenizer(_flat(data.wordings)).view(count, WORDINGS, -1)
        self._negatives = tokenizer(_flat(data.negatives)).view(count, NEGATIVES, -1)
        self._long = tokenizer(list(data.long))

    def start(self) -> Clip:
        """A small CLIP with new weights."""
        model = create("tiny", seed=self._lab.seed, image_size=SIDE, context=CONTEXT)
        model.prune_vocabulary_(torch.cat([ids.flatten() for ids in (self._wordings, self._negatives, self._long)]))
        return model

    def train(
        self, model: Clip, kind: Kind, *, steps: int, short_share: float, rate: float, pairs: int = BATCH
    ) -> Clip:
        """A copy of the model after more steps of 64 images.

        Args:
            model: where it starts.
            kind: ``images`` with their captions alone, text ``pairs`` beside them, or ``triplets`` in their place.
            steps: of the optimiser, with a warm-up and a cosine.
            short_share: of the steps, the first ones have short captions, the others long ones.
            rate: the highest learning rate.
            pairs: of texts in a step.
        """
        model = copy.deepcopy(model)
        views: dict[str, dict[str, Any]] = {"image": {}, "text": {}}
        terms: list[str | dict[str, Any]] = ["objective"]
        if kind != "images":
            views |= {"pairs_text": {}, "pairs_positive_text": {}}
            texts = {"name": "info_nce", "image": "pairs_text", "text": "pairs_positive_text", "tau": TAU}
            if kind == "triplets":
                views["pairs_negative_text"] = {}
                texts["negative_text"] = "pairs_negative_text"
            terms.append(texts)
        step = ComposedStep(ClipLoss(directions="sum"), steps=steps, seed=self._lab.seed, views=views, terms=terms)
        batches = self._batches(kind, short=round(steps * short_share), pairs=pairs)
        return fit_batches(model, step, batches, steps=steps, warmup=min(WARMUP, steps - 1), learning_rate=rate)

    def _batches(self, kind: Kind, *, short: int, pairs: int) -> Iterator[Batch]:
        count, generator = len(self._data), self._lab.generator("images")
        beside = self._lab.generator("pairs")
        several = draws(count, size=pairs, generator=beside)
        for place, rows in enumerate(draws(count, size=BATCH, generator=generator)):
            drawn = torch.randint(WORDINGS, (len(rows),), generator=generator)
            text = self._wordings[rows, drawn] if place < short else self._long[rows]
            extra: dict[str, object] = {}
            if kind != "images":
                own = next(several)
                one, other = torch.rand(len(own), WORDINGS, generator=beside).argsort(dim=1)[:, :2].unbind(1)
                extra = {
                    "pairs_text": _trimmed(self._wordings[own, one]),
                    "pairs_positive_text": _trimmed(self._wordings[own, other]),
                    "pairs_negative_text": _trimmed(self._negatives[own].flatten(0, 1)),
                }
            yield Batch(self._data.pixels[rows], _trimmed(text), extra)


def measure(model: Clip, data: ToldScenes) -> FoundTexts:
    """All questions, on held-out scenes."""
    texts = ([said[0] for said in data.wordings], [said[1] for said in data.wordings], data.long)
    wrong = unit_pairs(model, data.pixels[:1], [said[0] for said in data.negatives])[1]
    sides = [unit_pairs(model, data.pixels, said) for said in texts]
    cosines = sides[0][1] @ torch.cat([sides[1][1], wrong]).T
    own = torch.arange(len(data))
    image = [recall_at_k(*sides[place], k=(1,))["image_to_text_r1"] for place in (0, 2)]
    return FoundTexts(
        text=100 * float((cosines.argmax(dim=1) == own).double().mean()),
        told_apart=100 * float((cosines[own, own] > cosines[own, len(data) + own]).double().mean()),
        image=100 * sum(image) / len(image),
    )


def _trimmed(ids: Tensor) -> Tensor:
    """Without the columns that no row fills."""
    return ids[..., : int(ids.ne(0).flatten(0, -2).any(0).sum())]


def _flat(texts: Sequence[Sequence[str]]) -> list[str]:
    return [text for said in texts for text in said]
