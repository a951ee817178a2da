"""Captions of single things with one character wrong, a small CLIP that reads characters, and its text tower tuned."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.data.sets.scenes import Dice, Scene, short
from tether.data.sets.scenes.world import BACKGROUNDS
from tether.losses import ClipLoss
from tether.methods.leaf import typo_robustness
from tether.methods.leaf.attack import Attacked, random_typos
from tether.methods.leaf.robust import ROW, LeafLoss, LeafStep
from tether.methods.leaf.typos import WordConstraint
from tether.models.embed import encode_images, encode_texts
from tether.models.presets import configure
from tether.models.tokenizer import FunctionTokenizer
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.steps.presets import ContrastiveStep
from tether.training.tensor_batches import TensorBatches
from tether_lab.lab.lab import Lab
from tether_lab.worlds.in_memory import drawn, fit_batches, plain_world, shuffled

SIDE, PATCH, CONTEXT, WIDTH = 64, 16, 40, 32
LETTERS, START, END = 128, 1, 2
SCENES, BASE_STEPS, BASE_BATCH, BASE_RATE = 3_000, 500, 64, 2e-3
ASKED = 100
STEPS, BATCH, RHO, DECAY = 400, 12, 20, 1e-4
READ = 2 * RHO + 2
"""Texts that one text of a step of LEAF is read as: its candidates, the clean one and the one that is learnt."""
PLAIN_BATCH = 4 * BATCH
PLAIN_STEPS = STEPS * BATCH * READ // (2 * PLAIN_BATCH)
"""As many texts read as LEAF's: a random typo is read once, and its clean text once."""
PLACES, CANDIDATES = 10, 50
"""Of the attacks that measure: places of which Charmer tries every character, and rho of LEAF's."""

Arm = Literal["leaf", "worst", "plain"]
ARMS: tuple[Arm, ...] = get_args(Arm)
WORLD = plain_world(things=(1, 1), sizes=("large",))


@dataclass(frozen=True, slots=True)
class Mistyped:
    """One seed's things.

    Attributes:
        texts: captions that are asked, no two alike.
        pixels: (n, 3, 64, 64) an image of each that no model has seen.
        learnt: all other captions of this world; a tower is tuned on them.
    """

    texts: tuple[str, ...]
    pixels: UInt8[Tensor, "n 3 h w"]
    learnt: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stood:
    """What a model finds, in percent, and how far its rows move.

    Attributes:
        clean: texts that find their image first.
        attacked: the same after Charmer changed a character.
        moved: mean squared distance of rows, after LEAF's attack, from the untuned model's rows of the clean texts.
        moved_charmer: the same after Charmer's attack, which aims at a wrong image.
        still: the same without attack.
    """

    clean: float
    attacked: float
    moved: float
    moved_charmer: float
    still: float


def said(scene: Scene) -> str:
    """The caption of a scene, such as ``a red circle on grass``."""
    return short(scene, background="say")


def letters(texts: Sequence[str]) -> list[list[int]]:
    """A token for each character, between a start and an end; capitals are read as small, as CLIP's tokenizer does."""
    return [[START, *(min(ord(letter), LETTERS - 1) for letter in text.lower()), END] for text in texts]


def base(lab: Lab) -> Clip:
    """A tiny CLIP with a token for each character, taught single things, in evaluation mode."""
    dice = Dice(np.random.default_rng([lab.seed, 0]))
    scenes = [WORLD.draw(dice) for _ in range(lab.steps(SCENES, 64))]
    pixels = drawn(scenes, size=SIDE)
    text = {"width": WIDTH, "hidden": 4 * WIDTH, "vocabulary": LETTERS, "end": END}
    config = configure("tiny", image_size=SIDE, patch=PATCH, context=CONTEXT, text=text)
    model = Clip(config, tokenizer=FunctionTokenizer(letters, context_length=CONTEXT, vocab_size=LETTERS))
    model.initialise_(torch.Generator().manual_seed(lab.seed))
    tokens, steps = model.tokenizer([said(scene) for scene in scenes]), lab.steps(BASE_STEPS)
    batches = shuffled(pixels, tokens, size=BASE_BATCH, generator=lab.generator("batches"))
    step = ContrastiveStep(ClipLoss(duplicates="positives"), steps=steps, seed=lab.seed)
    return fit_batches(model, step, batches, steps=steps, warmup=steps // 10, learning_rate=BASE_RATE)


def asked(lab: Lab) -> Mistyped:
    """Captions to ask, their images, and the captions to tune on."""
    scene = WORLD.draw(Dice(np.random.default_rng(0)))
    every = [
        said(replace(scene, things=(replace(scene.things[0], colour=colour, shape=shape),), background=background))
        for background in BACKGROUNDS
        for colour, shape in WORLD.pairs_on(background)
    ]
    order = torch.randperm(len(every), generator=lab.generator("asked")).tolist()
    count = lab.steps(ASKED, 4)
    texts = [every[row] for row in order[:count]]
    dice, found = Dice(np.random.default_rng([lab.seed, 1])), dict[str, Scene]()
    while not all(text in found for text in texts):
        scene = WORLD.draw(dice)
        found.setdefault(said(scene), scene)
    pixels = drawn((found[text] for text in texts), size=SIDE)
    return Mistyped(tuple(texts), pixels, tuple(every[row] for row in order[count:]))


def tuned(lab: Lab, start: Clip, texts: Sequence[str], *, arm: Arm, rate: float) -> Clip:
    """A copy of a model whose text tower learnt to give texts with typos the rows of the clean ones.

    ``leaf`` and ``worst`` take the same batches; ``worst`` has the worst of as many random typos as LEAF has
    candidates. ``plain`` has one random typo for each text and more texts, so that all read as many.

    Args:
        lab: seed and budget.
        start: stays as it is.
        texts: that are learnt.
        arm: which typos.
        rate: the highest learning rate; a warm-up of a tenth, then a cosine, as in ``tether adapt``.
    """
    model = copy.deepcopy(start)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("text."))
    plain, words = arm == "plain", WordConstraint.of(texts)
    made = OneTypo if plain else LeafLoss
    rho = lab.steps(RHO, 2)
    loss = made(
        frozen_copy(start), attack="leaf" if arm == "leaf" else "random", rho=rho, constraint=words, cut="allow"
    )
    steps, size = lab.steps(PLAIN_STEPS if plain else STEPS), PLAIN_BATCH if plain else BATCH
    return fit_batches(
        model,
        LeafStep(loss, texts, seed=lab.seed),
        TensorBatches({ROW: torch.arange(len(texts))}, batch_size=size, seed=lab.seed),
        steps=steps,
        warmup=steps // 10,
        learning_rate=rate,
        weight_decay=DECAY,
    )


class OneTypo(LeafLoss):
    """The same loss on texts with one random typo each, that no model has looked at; clean rows are kept."""

    def attacked(
        self, model: DualEncoder, texts: Sequence[str], *, generator: torch.Generator
    ) -> tuple[Tensor, Attacked]:
        """See LeafLoss; the rows that were found are empty."""
        del model
        allowed, nothing = self._allowed if self._constraints else None, torch.zeros(len(texts), 1)
        chance = {"tries": 1, "constraint": allowed, "generator": generator}
        found = random_typos(lambda some: torch.zeros(len(some), 1), texts, nothing, **chance)
        if new := [text for text in dict.fromkeys(texts) if text not in self._clean]:
            self._clean |= dict(zip(new, encode_texts(self.reference, new), strict=True))
        return torch.stack([self._clean[text] for text in texts]), found

    @functools.cached_property
    def _clean(self) -> dict[str, Tensor]:
        return {}


def stood(lab: Lab, model: Clip, start: Clip, things: Mistyped) -> Stood:
    """How a model, tuned or not, stands one changed character."""
    clean = encode_texts(start, things.texts)
    images, labels = encode_images(model, things.pixels.split(100)), torch.arange(len(things.texts))
    hard = typo_robustness(model, things.texts, gallery=images, labels=labels, clean=clean, n=lab.steps(PLACES, 1))
    far = typo_robustness(
        model,
        things.texts,
        gallery=images,
        labels=labels,
        attack="leaf",
        objective="l2",
        clean=clean,
        rho=lab.steps(CANDIDATES, 2),
        generator=lab.generator("far"),
    )
    still = float((encode_texts(model, things.texts) - clean).square().sum(dim=1).mean())
    before, after = hard.accuracy
    return Stood(100 * before, 100 * after, far.distance, hard.distance, still)
