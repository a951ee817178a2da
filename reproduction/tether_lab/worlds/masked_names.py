"""Things cut out of drawn scenes: a small CLIP names them, before and after it learnt from pairs mined by itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import Tensor

from tether.adaptation.recipes.tuning import play
from tether.core.masks import NO_CLASS
from tether.data.regions import RegionColumns
from tether.evaluate.dense import MaskScores
from tether.methods.ovseg.mask_classes import pixel_scores
from tether.methods.ovseg.mask_pairs import examples_of, mine_pairs
from tether.methods.ovseg.mask_prompts import encode_masked, kept_patches
from tether.methods.ovseg.masked_crops import Fill, masked_crop, masked_crops
from tether.methods.ovseg.masked_questions import masked_hits
from tether.methods.ovseg.masked_regions import MaskedPhrases, masked_regions
from tether.methods.ovseg.recipe import MaskedCropsRecipe
from tether.models.features.kept_patches import encode_patches
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.models.towers.vision.mask_prompt_stem import prompts_of
from tether_lab.lab.lab import Lab
from tether_lab.worlds import drawn_shapes
from tether_lab.worlds.drawn_shapes import PATCH, PHRASES, ShapeScenes
from tether_lab.worlds.in_memory import percent, unit_texts

THINGS = (2, 4)
SCENES, ASKED = 1_500, 400
WRONG = 0.3
"""Share of the proposals that are two things at once."""
STEPS, BATCH = 300, 64
Moves = Literal["prompts", "image"]


@dataclass(frozen=True, slots=True)
class NameBench:
    """What all arms of a seed share.

    Attributes:
        start: the CLIP that all begin as.
        mined: pairs that it found itself in captions and masks without names.
        true_pairs: share of them whose phrase is in the mask.
        mined_boxes: the same pairs with all that is in their boxes.
        asked: masked crops of other scenes, with what is in them.
        boxes: the same with all that is in their boxes.
        scenes: these others.
        proposals: masks of each of them without names, some of two things.
    """

    start: Clip
    mined: MaskedPhrases
    true_pairs: float
    mined_boxes: MaskedPhrases
    asked: MaskedPhrases
    boxes: MaskedPhrases
    scenes: ShapeScenes
    proposals: Sequence[Bool[Tensor, "q h w"]]


def prepare(lab: Lab) -> NameBench:
    """Teach the CLIP, draw scenes, mine pairs."""
    start, world = drawn_shapes.captioned_base(lab), drawn_shapes.shape_world(THINGS)
    train = drawn_shapes.drawn_scenes(lab, "masked train", count=lab.steps(SCENES, 24), world=world)
    asked = drawn_shapes.drawn_scenes(lab, "masked asked", count=lab.steps(ASKED, 12), world=world)
    generator = lab.generator("proposals")
    offered, masks = (
        [proposed(scenes_masks(scenes, at), generator=generator) for at in range(len(scenes))]
        for scenes in (train, asked)
    )
    images = [drawn_shapes.tensor_of(drawn) for drawn in train.drawn]
    pairs = list(mine_pairs(images, train.texts, offered, model=start, nouns=said))
    right = [
        pair.proposal < len(train.phrases[pair.row]) and train.phrases[pair.row][pair.proposal] == pair.noun
        for pair in pairs
    ]
    seen = RegionColumns(most=THINGS[1], phrases="phrases", masks="labels", unit="pixel")
    size, mined = start.image_spec.size, examples_of(pairs)
    boxes = [masked_crop(images[one.row], offered[one.row][one.proposal], fill="none", size=size) for one in pairs]
    return NameBench(
        start,
        mined,
        sum(right) / max(1, len(right)),
        replace(mined, crops=torch.stack([one.pixels for one in boxes])),
        all_named(masked_regions(asked, columns=seen, size=size)),
        all_named(masked_regions(asked, columns=seen, size=size, fill="none")),
        asked,
        masks,
    )


def scenes_masks(scenes: ShapeScenes, at: int) -> Bool[Tensor, "k h w"]:
    """The masks of the things of one scene."""
    drawn = scenes.drawn[at]
    return torch.stack([torch.from_numpy(drawn.mask(place)) for place in range(len(drawn.boxes))])


def proposed(masks: Bool[Tensor, "k h w"], *, generator: torch.Generator) -> Bool[Tensor, "q h w"]:
    """Masks without names, and drawn ones of two things at once, which are ``WRONG`` of all on average."""
    found = list(masks)
    for draw in torch.rand(len(masks), generator=generator).tolist():
        if len(masks) > 1 and draw < WRONG / (1 - WRONG):
            first, second = torch.randperm(len(masks), generator=generator)[:2].tolist()
            found.append(masks[first] | masks[second])
    return torch.stack(found)


def said(caption: str) -> list[str]:
    """The phrases that stand in a caption."""
    return [phrase for phrase in PHRASES if phrase in caption]


def all_named(found: MaskedPhrases) -> MaskedPhrases:
    """The same among all 24 phrases."""
    labels = torch.tensor([PHRASES.index(found.phrases[label]) for label in found.labels.tolist()])
    return MaskedPhrases(found.crops, found.masks, labels, PHRASES)


def tuned(lab: Lab, found: MaskedPhrases, start: Clip, moves: Moves, *, rate: float) -> Clip:
    """A copy of a model after the recipe ``masked_crops``.

    Args:
        lab: seed and budget.
        found: pairs to learn from.
        start: what it begins as.
        moves: what learns.
        rate: of learning.
    """
    model = copy.deepcopy(start)
    recipe = MaskedCropsRecipe(
        moves=moves, learning_rate=rate, steps=lab.steps(STEPS), batch_size=lab.steps(BATCH, 8), warmup=30
    )
    play(recipe.describe(model, found, seed=lab.seed), model, seed=lab.seed)
    return model.eval()


def top1(model: Clip, found: MaskedPhrases) -> float:
    """Crops whose own phrase is nearest, out of 24; percent. Mask prompts, if there are some, are told the masks."""
    return percent(masked_hits(model, found))


@torch.no_grad()
def top1_hidden(model: Clip, found: MaskedPhrases) -> float:
    """Of crops in which patches without a pixel of the mask are hidden from attention; percent."""
    keep = kept_patches(found.masks, patch=PATCH)
    rows = [
        encode_patches(model, crop[None], keep=some.nonzero().T).pooled
        for crop, some in zip(found.crops, keep, strict=True)
    ]
    text = unit_texts(model, found.phrases)
    return percent((torch.cat(rows) @ text.T).argmax(dim=1) == found.labels)


@torch.no_grad()
def largest_change(model: Clip, before: Clip, pixels: UInt8[Tensor, "n 3 s s"]) -> float:
    """Largest difference of any number of the embeddings of images that are given without masks."""
    now, then = (frozen_copy(one).encode_image(pixels).pooled for one in (model, before))  # both by the same kernels
    return float((now - then).abs().max())


@torch.no_grad()
def mean_iou(model: Clip, bed: NameBench, *, fill: Fill = "mean") -> float:
    """Of 24 phrases over the pixels of things, which the proposals over them name; percent.

    Args:
        model: names each proposal's crop.
        bed: of the seed.
        fill: what crops have outside of their masks.
    """
    told = prompts_of(model) is not None
    text, scale = unit_texts(model, PHRASES), float(model.logit_scale)
    scores = MaskScores(PHRASES, tolerance=0)
    for drawn, phrases, masks in zip(bed.scenes.drawn, bed.scenes.phrases, bed.proposals, strict=True):
        crops = masked_crops(drawn_shapes.tensor_of(drawn), masks, size=model.image_spec.size, fill=fill)
        seen = encode_masked(model, crops.pixels, mask=crops.masks) if told else model.encode_image(crops.pixels)
        likely = (scale * F.normalize(seen.pooled, dim=1) @ text.T).softmax(dim=1)
        found = pixel_scores(likely, masks[crops.valid].float()).argmax(dim=0).to(torch.uint8)
        table = np.array([NO_CLASS, *(PHRASES.index(phrase) for phrase in phrases)], dtype=np.uint8)
        scores.add(found.numpy(), truth=table[drawn.labels])
    return 100 * scores.report().miou.value
