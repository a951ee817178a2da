"""Scenes as studies: one thing that always looks the same, planted flaws as findings, and a report of each.

Most studies are normal and nearly alike; reports of the same findings differ in words. Nothing here is an image of a
person, and no figure on it says anything about medicine.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from tether.core.protocols import Objective
from tether.core.types import Batch, ImageSpec
from tether.data.images import load
from tether.data.sets.scenes import Dice, Scene, Thing, draw_defect
from tether.data.sets.scenes.defects import KINDS, plant
from tether.data.sets.scenes.render import render
from tether.models import create
from tether.models.towers.clip import Clip
from tether.training.steps.module import Want
from tether.training.steps.presets import ContrastiveStep
from tether_lab.worlds.attribute_swaps import run
from tether_lab.worlds.in_memory import draws

FINDINGS = KINDS
CHANCE = 0.08
"""Of each finding in a study, so that half of all pairs of studies have the same findings, mostly none."""
DRAWN, SIDE, PATCH, CONTEXT = 64, 48, 8, 24
"""Studies are drawn at 64 pixels, the smallest a scene is drawn at, and learnt at 48."""
PRESENT, ABSENT = "there is a {}", "no {}"
"""What a report says of a finding; half of the absent ones are not mentioned at all."""
NORMAL = ("the ring looks normal", "nothing unusual is seen", "a normal study")
_MENTIONED = 0.5


@dataclass(frozen=True, slots=True)
class Studies:
    """Studies in memory; entry i of each belongs to study i.

    Attributes:
        pixels: (n, 3, 48, 48).
        reports: one text each.
        truth: (n, 4) which findings there are.
        masks: (n, 4, 48, 48) where each is; a thin one may cover less than half of every pixel, and is empty then.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    reports: tuple[str, ...]
    truth: Bool[Tensor, "n k"]
    masks: Bool[Tensor, "n k h w"]

    @property
    def vectors(self) -> Float[Tensor, "n m"]:
        """Findings, and "normal" as an entry of its own, for soft targets."""
        return torch.cat([self.truth, ~self.truth.any(dim=1, keepdim=True)], dim=1).float()


@functools.lru_cache(maxsize=8)
def studies(count: int, *, seed: int, part: int) -> Studies:
    """Draw studies; ``part`` gives other ones of the same seed."""
    rng = np.random.default_rng([seed, part])
    dice = Dice(rng)
    pixels = np.empty((count, DRAWN, DRAWN, 3), np.uint8)
    masks = np.zeros((count, len(FINDINGS), DRAWN, DRAWN), bool)
    reports = []
    for row in range(count):
        x, y = dice.uniform(0.45, 0.55), dice.uniform(0.45, 0.55)
        ring = Thing("ring", "grey", "large", "plain", "whole", x, y, 28, shade=dice.uniform(-1, 1))
        scene = Scene((ring,), "paper")
        pixels[row] = render(scene, size=DRAWN).pixels
        said = []
        for number, kind in enumerate(FINDINGS):
            if dice.chance(CHANCE):
                masks[row, number] = plant([draw_defect(scene, dice, kinds=(kind,))], pixels[row])
                said.append(PRESENT.format(kind))
            elif dice.chance(_MENTIONED):
                said.append(ABSENT.format(kind))
        if not masks[row].any():
            said.insert(0, dice.pick(NORMAL))
        reports.append(". ".join(dice.shuffled(said)))
    truth, spec = torch.from_numpy(masks.any(axis=(2, 3))), ImageSpec((SIDE, SIDE))
    small = F.interpolate(torch.from_numpy(masks).float(), (SIDE, SIDE), mode="area") >= 0.5
    return Studies(torch.stack([load(image, spec) for image in pixels]), tuple(reports), truth, small)


def same_findings(data: Studies) -> float:
    """Share of pairs of different studies that have the same findings."""
    same = (data.truth[:, None] == data.truth[None]).all(dim=2)
    count = len(same)
    return float((same.sum() - count) / (count * (count - 1)))


def learn(objective: Objective, data: Studies, *, seed: int, steps: int, batch: int, want: Want = "pooled") -> Clip:
    """A tiny CLIP after ``steps`` steps on studies and their reports, in eval mode."""
    model = create("tiny", seed=seed, image_size=SIDE, patch=PATCH, context=CONTEXT)
    tokens = model.tokenizer(data.reports)
    model.prune_vocabulary_(tokens)
    step = ContrastiveStep(objective, steps=steps, seed=seed, want=want)
    run(model, step, _batches(data, tokens, size=batch, seed=seed), steps=steps)
    model.restore_vocabulary_()
    return model


def _batches(data: Studies, tokens: Int[Tensor, "n l"], *, size: int, seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    vectors = data.vectors
    same = data.truth.long() @ (2 ** torch.arange(len(FINDINGS)))  # one number for each set of findings
    for rows in draws(len(tokens), size=size, generator=generator, repeats=True):
        yield Batch(data.pixels[rows], tokens[rows], {"findings": vectors[rows], "study": same[rows]})
