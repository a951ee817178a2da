"""Things cut out of drawn scenes: a small CLIP names them, before and after it learnt from pairs mined by itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from tether.adapt.recipes.masked_crops import MaskedCropsRecipe
from tether.adapt.recipes.tuning import play
from tether.data.masked_regions import MaskedPhrases, masked_regions
from tether.data.regions import RegionColumns
from tether.evaluate.masked_questions import masked_hits
from tether.models.dual import Clip
from tether.papers.testbeds import drawn_shapes
from tether.papers.testbeds.drawn_shapes import PHRASES, ShapeScenes
from tether.tasks.curate.mask_pairs import examples_of, mine_pairs

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

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
        asked: masked crops of other scenes, with what is in them.
        unmasked: the same boxes with all that is in them.
    """

    start: Clip
    mined: MaskedPhrases
    true_pairs: float
    asked: MaskedPhrases
    unmasked: MaskedPhrases


def prepare(lab: Lab) -> NameBench:
    """Teach the CLIP, draw scenes, mine pairs."""
    start, world = drawn_shapes.captioned_base(lab), drawn_shapes.shape_world(THINGS)
    train = drawn_shapes.drawn_scenes(lab, "masked train", count=lab.steps(SCENES, 24), world=world)
    asked = drawn_shapes.drawn_scenes(lab, "masked asked", count=lab.steps(ASKED, 12), world=world)
    generator = lab.generator("proposals")
    proposals = [proposed(scenes_masks(train, at), generator=generator) for at in range(len(train))]
    images = [drawn_shapes.tensor_of(drawn) for drawn in train.drawn]
    pairs = list(mine_pairs(images, train.texts, proposals, model=start, nouns=said))
    right = [
        pair.proposal < len(train.phrases[pair.row]) and train.phrases[pair.row][pair.proposal] == pair.noun
        for pair in pairs
    ]
    seen = RegionColumns(most=THINGS[1], phrases="phrases", masks="labels", unit="pixel")
    size = start.image_spec.size
    return NameBench(
        start,
        examples_of(pairs),
        sum(right) / max(1, len(right)),
        all_named(masked_regions(asked, columns=seen, size=size)),
        all_named(masked_regions(asked, columns=seen, size=size, fill="none")),
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


def tuned(lab: Lab, bed: NameBench, start: Clip, moves: Moves, *, rate: float, steps: int = STEPS) -> Clip:
    """A copy of a model after the recipe ``masked_crops`` on the mined pairs.

    Args:
        lab: seed and budget.
        bed: of the seed.
        start: what it begins as.
        moves: what learns.
        rate: of learning.
        steps: of the optimiser.
    """
    model = copy.deepcopy(start)
    recipe = MaskedCropsRecipe(
        moves=moves, learning_rate=rate, steps=lab.steps(steps), batch_size=lab.steps(BATCH, 8), warmup=30
    )
    play(recipe.describe(model, bed.mined, seed=lab.seed), model, seed=lab.seed)
    return model.eval()


def top1(model: Clip, found: MaskedPhrases) -> float:
    """Masked crops whose own phrase is nearest, out of 24; percent."""
    return 100 * float(masked_hits(model, found).float().mean())
