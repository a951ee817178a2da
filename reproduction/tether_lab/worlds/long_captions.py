"""Captions whose last words tell two images apart, and a text tower that cuts them off or learns to read on."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.adaptation.distill import distil_text
from tether.core.types import Batch, ImageSpec
from tether.data.images import load
from tether.data.sets.scenes import long, render
from tether.methods.clip_in import SymmetricHardNegativeLoss
from tether.methods.clip_in.step import ClipInStep
from tether.methods.tripletclip import SceneTwins
from tether.models.tokenizer import TextCutWarning
from tether.models.towers.clip import Clip
from tether_lab.worlds.attribute_swaps import SIDE, WORLD, quadruples, run
from tether_lab.worlds.in_memory import mean_recall, unit_pairs, unit_texts

PLACES = ("paper", "grass", "wood", "stone")
DETAILS = 4
"""Sentences after the first one, the telling one included; about forty tokens."""


@dataclass(frozen=True, slots=True)
class ReadOn:
    """One teacher and its student.

    Attributes:
        converted: mean cosine to the teacher on held-out short captions right after the change of positions.
        distilled: the same after distilling.
        recall_cut: recall at 1 by long captions, mean of both directions, of the teacher, which cuts them off, after
            as much training on them as the student has had.
        recall_rotary: the same of the student.
    """

    converted: float
    distilled: float
    recall_cut: float
    recall_rotary: float


@functools.lru_cache(maxsize=4)
def long_pairs(split: str, *, count: int) -> tuple[UInt8[Tensor, "n 3 h w"], tuple[str, ...]]:
    """Scenes and the same on another background, told alike up to the last sentence: n = 2 ``count``."""
    settings = {**WORLD, "backgrounds": PLACES}
    source = SceneTwins(split=split, quadruples=count, change="background", **settings)  # pyrefly: ignore
    found = [source.quadruple(index) for index in range(count)]
    scenes = [one.scene for one in found] + [one.other for one in found]
    texts = tuple(long(scene, order="given", telling=(-1, "background"), most=DETAILS) for scene in scenes)
    spec = ImageSpec((SIDE, SIDE))
    return torch.stack([load(render(scene, size=64).pixels, spec) for scene in scenes]), texts


def read_on(
    teacher: Clip,
    *,
    context: int,
    distil_steps: int,
    steps: int,
    batch: int,
    count: int,
    held_out: int,
    seed: int,
) -> ReadOn:
    """Convert, distil, and train teacher and student alike on quadruples and long captions.

    Args:
        teacher: trained on short captions; it is changed.
        context: of the student.
        distil_steps: of distilling, on the training captions.
        steps: of the joint training of either.
        batch: quadruples, and long captions, in one of its steps.
        count: of quadruples, and of pairs of long captions, to train on.
        held_out: pairs of long captions that recall is measured among.
        seed: of the order of the rows.
    """
    texts = _texts("train", count=count)
    unseen = _texts("test", count=held_out)
    teacher.restore_vocabulary_()
    student = teacher.resized(context=context, how="rotary")
    converted = _agreement(student, teacher, unseen)
    generator = torch.Generator().manual_seed(seed)
    distil_text(student, teacher=teacher, texts=texts, steps=distil_steps, generator=generator)
    distilled = _agreement(student, teacher, unseen)
    recalls = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)  # that the teacher cuts texts is the point
        for model in (teacher, student):
            _train(model, steps=steps, batch=batch, count=count, seed=seed)
            recalls.append(_recall(model, count=held_out))
    return ReadOn(converted, distilled, *recalls)


def _texts(split: str, *, count: int) -> list[str]:
    source = SceneTwins(split=split, quadruples=count, **WORLD)  # pyrefly: ignore
    found = [source.quadruple(index) for index in range(count)]
    return [text for one in found for text in (one.text, one.other_text)]


def _agreement(student: Clip, teacher: Clip, texts: list[str]) -> float:
    one, two = (unit_texts(model, texts) for model in (student, teacher))
    return float((one * two).sum(dim=1).mean())


def _train(model: Clip, *, steps: int, batch: int, count: int, seed: int) -> None:
    data, (pixels, texts) = quadruples("train", count=count), long_pairs("train", count=count)
    tokens = model.tokenizer(texts)
    model.prune_vocabulary_(torch.cat([data.tokens.flatten(), tokens.flatten()]))

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            rows = torch.randperm(len(data), generator=generator)[:batch]
            far = torch.randperm(len(texts), generator=generator)[:batch]
            twins = {"negative_image": data.pixels[rows + len(data)], "negative_text": data.tokens[rows + len(data)]}
            more = {"long_image": pixels[far], "long_text": tokens[far]}
            yield Batch(data.pixels[rows], data.tokens[rows], {**twins, **more})

    run(model, ClipInStep(SymmetricHardNegativeLoss(), steps=steps, seed=seed), batches(), steps=steps)


def _recall(model: Clip, *, count: int) -> float:
    pixels, texts = long_pairs("test", count=count)
    return mean_recall(*unit_pairs(model, pixels, texts))
