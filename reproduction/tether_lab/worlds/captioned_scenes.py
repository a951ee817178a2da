"""Scenes of one or two things with captions that say some details by chance, and small CLIPs that learnt such pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from tether.core.hash_rng import hash_int
from tether.core.types import Batch
from tether.data.sets.scenes import Dice, Scene, World
from tether.data.sets.scenes.captions import listed, noun, whereabouts, with_article
from tether.evaluate.captions import attribute_scores
from tether.losses import ClipLoss
from tether.models import Clip, create
from tether.models.load import load
from tether.models.save import save
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.model_cache import cached_model
from tether_lab.worlds.in_memory import drawn, fit_rows

if TYPE_CHECKING:
    from tether_lab.lab.lab import Lab

SHAPES = ("circle", "triangle", "star", "cross")
COLOURS = ("red", "orange", "green", "blue", "purple")
SPOTS = tuple(
    [f"in the {line} {column}" for line in ("top", "bottom") for column in ("left", "right")]
    + ["on the left", "on the right", "at the top", "at the bottom", "in the middle"]
)
WORDS = (*SHAPES, *COLOURS, *SPOTS)
"""What counts as an attribute."""
SAID = 0.35
"""How often a caption says the place of a thing."""
REFERENCES = 5
SIDE, CONTEXT = 32, 20
PAIRS, STEPS, BATCH, RATE, SCALE = 8_000, 900, 64, 2e-3, 100.0
"""Of the CLIPs; the scale of the cosine is fixed at what published ones end at, which leaves images off texts."""


@dataclass(frozen=True, slots=True)
class ReferencedScenes:
    """Images, captions of each, and what is true of each.

    Attributes:
        pixels: (n, 3, 32, 32).
        captions: of each image, each with other details.
        true: colours, shapes and places of its things.
        pairs: its things by colour and shape, such as ``red star``.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    captions: tuple[tuple[str, ...], ...]
    true: tuple[frozenset[str], ...]
    pairs: tuple[frozenset[str], ...]

    @property
    def texts(self) -> list[str]:
        """The first caption of each."""
        return [some[0] for some in self.captions]

    def recall(self, written: Sequence[str]) -> float:
        """Share of the true words that are said, in percent."""
        return 100 * attribute_scores(written, self.true, known=WORDS).recall

    def precision(self, written: Sequence[str]) -> float:
        """Share of the said words that are true, in percent; 0 where none is said."""
        return float(np.nan_to_num(100 * attribute_scores(written, self.true, known=WORDS).precision))

    def whole(self, written: Sequence[str]) -> float:
        """Share of the things that are named by colour and shape side by side, in percent."""
        return 100 * attribute_scores(written, self.pairs).recall


def scenes(name: str, *, seed: int, count: int, captions: int = 1) -> ReferencedScenes:
    """So many scenes by a name and a seed, with so many captions of each."""
    dice = Dice(np.random.default_rng(hash_int(name, seed=seed, salt="captioned scenes")))
    world = World(
        things=(1, 2),
        shapes=SHAPES,
        colours=COLOURS,
        sizes=("large",),
        textures=("plain",),
        backgrounds=("paper", "snow", "stone", "wood"),
        broken=0.0,
        pairs="all",
    )
    found = [world.draw(dice) for _ in range(count)]
    large = drawn(found, size=2 * SIDE).float()
    return ReferencedScenes(
        F.avg_pool2d(large, 2).round_().to(torch.uint8),
        tuple(tuple(_caption(scene, dice) for _ in range(captions)) for scene in found),
        tuple(
            frozenset(word for one in scene.things for word in (one.shape, one.colour, whereabouts(one)))
            for scene in found
        ),
        tuple(frozenset(noun(one) for one in scene.things) for scene in found),
    )


def _caption(scene: Scene, dice: Dice) -> str:
    """The things in random order, each with its place by chance."""
    named = [(with_article(noun(thing)), whereabouts(thing)) for thing in dice.shuffled(scene.things)]
    return listed([f"{name} {place}" if dice.chance(SAID) else name for name, place in named])


def caption_clip(lab: Lab, *, judge: bool = False) -> Clip:
    """A tiny CLIP of a seed, in eval mode; trained at the first call, then read from the user's cache.

    Args:
        lab: seed and budget.
        judge: one of other first weights, other scenes and another order of batches.
    """
    seed = hash_int("judge", seed=lab.seed, salt="caption clip") % 2**31 if judge else lab.seed

    def make(folder: Path) -> None:
        save(_taught(lab, seed=seed), folder / "model")

    folder = cached_model("caption-clip", made_by=Path(__file__), facts=[seed, lab.smoke], make=make)
    return cast(Clip, load(folder / "model")).eval()


def _taught(lab: Lab, *, seed: int) -> Clip:
    shown = scenes("clip", seed=seed, count=lab.steps(PAIRS, 64))
    model = create("tiny", seed=seed, image_size=SIDE, context=CONTEXT, logit_scale=SCALE)
    model.freeze_logit_scale_()
    ids = model.tokenizer(shown.texts)
    model.prune_vocabulary_(model.tokenizer([*shown.texts, *WORDS]))
    steps = lab.steps(STEPS)
    fit_rows(
        model,
        lambda rows: Batch(shown.pixels[rows], ids[rows]),
        rows=len(shown.texts),
        step=ContrastiveStep(ClipLoss(duplicates="positives"), steps=steps, seed=seed),
        steps=steps,
        batch_size=BATCH,
        learning_rate=RATE,
        generator=torch.Generator().manual_seed(seed),
    )
    model.restore_vocabulary_()
    return model.eval()
