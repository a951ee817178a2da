"""What lies under a mask: a small CLIP learns to take alpha, and plainer ways learn from the same regions as long."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.tuning import play
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.region_files import NamedRegion
from tether.data.regions import RegionColumns
from tether.data.sets.scenes import RenderedScene
from tether.methods.alpha_clip.recipe import RegionsRecipe
from tether.methods.alpha_clip.region_questions import RegionAnswers, ask_regions
from tether.methods.dclip.region_crops import cut_box
from tether.models.embed import encode_images
from tether.models.encoders.region_tower import AlphaVisionTower, alpha_from_mask
from tether.models.towers.clip import Clip
from tether.tasks.classify.regions import RegionAs, region_rows
from tether_lab.lab.lab import Lab
from tether_lab.worlds import drawn_shapes, in_memory
from tether_lab.worlds.drawn_shapes import PHRASES, ShapeScenes

THINGS = (2, 4)
SCENES, ASKED, POOL = 2_000, 300, 400
STEPS, BATCH, COMMON = 300, 64, 0.5
"""The last is the share of whole images with their captions."""
WHOLE = [[0.0, 0.0, 1.0, 1.0]]

Learnt = Literal["alpha", "crop", "none"]
"""What a tower learns regions from: the whole image with its mask as alpha, the crop of the box, or the image alone."""


class RegionImages(IndexedSource):
    """Each region a row whose image stands for it, with one region that is all of it; and as many captioned scenes."""

    def __init__(self, scenes: ShapeScenes, *, learnt: Literal["crop", "none"]) -> None:
        """Args: scenes: whose regions. learnt: what stands for a region."""
        self.name, self.version = f"{scenes.name} {learnt}", scenes.version
        self.rows: list[Row] = []
        for row, drawn, phrases in zip(scenes.rows, scenes.drawn, scenes.phrases, strict=True):
            for place, phrase in enumerate(phrases):
                image = drawn.pixels
                if learnt == "crop":
                    image = cut_box(drawn_shapes.tensor_of(drawn), _shares(drawn)[place].tolist())
                    image = image.permute(1, 2, 0).numpy()
                meta: dict[str, object] = {"boxes": WHOLE, "phrases": [phrase]}
                self.rows.append(replace(row, key=f"{row.key}/{place}", image=image, meta=meta))
        captioned = round(len(self.rows) * COMMON / (1 - COMMON))
        empty: dict[str, object] = {"boxes": [], "phrases": []}
        self.rows += [replace(scenes.rows[at % len(scenes)], key=f"all/{at}", meta=empty) for at in range(captioned)]

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]


def _shares(drawn: RenderedScene) -> Float[np.ndarray, "k 4"]:
    height, width = drawn.labels.shape
    return drawn.boxes / (width, height, width, height)


@dataclass(frozen=True, slots=True)
class MaskBench:
    """What all arms of a seed share.

    Attributes:
        start: the CLIP that all begin as.
        train: scenes to learn from.
        asked: scenes whose things are asked for.
        pool: scenes to be found by their captions.
    """

    start: Clip
    train: ShapeScenes
    asked: ShapeScenes
    pool: ShapeScenes


def prepare(lab: Lab) -> MaskBench:
    """Teach the CLIP and draw scenes; no two of the pool show the same things."""
    world = drawn_shapes.shape_world(THINGS)
    return MaskBench(
        drawn_shapes.captioned_base(lab),
        drawn_shapes.drawn_scenes(lab, "train", count=lab.steps(SCENES, 40), world=world),
        drawn_shapes.drawn_scenes(lab, "asked", count=lab.steps(ASKED, 12), world=world),
        drawn_shapes.drawn_scenes(lab, "pool", count=lab.steps(POOL, 24), world=world, different=[]),
    )


def tuned(
    lab: Lab, bed: MaskBench, learnt: Learnt, *, rate: float, gamma: float, label_smoothing: float, steps: int = STEPS
) -> Clip:
    """A copy of the start after the recipe ``regions``; of crops and bare images alpha is all inside.

    Args:
        lab: seed and budget.
        bed: of the seed.
        learnt: what stands for a region.
        rate: of alpha's kernel.
        gamma: times that is the rate of the image tower.
        label_smoothing: of the loss.
        steps: of the optimiser.
    """
    model = copy.deepcopy(bed.start)
    source = bed.train if learnt == "alpha" else RegionImages(bed.train, learnt=learnt)
    recipe = RegionsRecipe(
        masks="labels" if learnt == "alpha" else None,
        unit="pixel" if learnt == "alpha" else "share",
        common=COMMON if learnt == "alpha" else 0.0,
        repeated="positives",
        steps=lab.steps(steps),
        batch_size=lab.steps(BATCH, 8),
        learning_rate=rate,
        gamma=gamma,
        label_smoothing=label_smoothing,
        scale=float(model.logit_scale.detach()),
    )
    given = Given("pairs", source, len(source), seed=lab.seed)
    play(recipe.tuning(model, given), model, seed=lab.seed)
    return model.eval()


def answers(bed: MaskBench, *, before: Clip, after: Clip) -> RegionAnswers:
    """What ``tether adapt --recipe regions`` reports of the scenes asked for."""
    columns = RegionColumns(most=THINGS[1], phrases="phrases", masks="labels", unit="pixel")
    found = ask_regions(bed.asked, before=before, after=after, columns=columns)
    assert found is not None
    return found


def named(model: Clip, bed: MaskBench, way: RegionAs | Literal["none"]) -> float:
    """Things of the scenes whose phrase, out of 24, a model finds in one of the ways of ``classify``; percent."""
    rows, right = [], []
    for drawn, phrases in zip(bed.asked.drawn, bed.asked.phrases, strict=True):
        pixels = drawn_shapes.tensor_of(drawn)
        if way == "none":
            rows.append(encode_images(model, [drawn_shapes.seen(pixels)[None]]).expand(len(phrases), -1))
        else:
            rows.append(region_rows(model, pixels, regions=regions_of(drawn), region_as=way))
        right += [PHRASES.index(phrase) for phrase in phrases]
    cosines = F.normalize(torch.cat(rows), dim=1) @ in_memory.unit_texts(model, PHRASES).T
    return in_memory.percent(cosines.argmax(dim=1) == torch.tensor(right))


def regions_of(drawn: RenderedScene) -> list[NamedRegion]:
    """The things of a scene as ``tether classify --regions`` takes them."""
    return [NamedRegion(str(place), box, drawn.mask(place)) for place, box in enumerate(_shares(drawn))]


def caption_recall(model: Clip, bed: MaskBench) -> float:
    """At 1 among the scenes of the pool, the mean of both directions, in percent; of alpha the whole image."""
    pair = in_memory.unit_pairs(model, drawn_shapes.pixels_of(bed.pool), bed.pool.texts)
    return 100 * in_memory.mean_recall(*pair)


def largest_start_difference(bed: MaskBench) -> float:
    """Between embeddings of the start and of its copy that takes alpha, over the masks of scenes, before training."""
    tower, apart = AlphaVisionTower.from_clip(bed.start).eval(), []
    for drawn in bed.asked.drawn[:32]:
        masks = torch.stack([torch.from_numpy(drawn.mask(place)) for place in range(len(drawn.boxes))])
        image = drawn_shapes.seen(drawn_shapes.tensor_of(drawn)).expand(len(masks), -1, -1, -1)
        alpha = alpha_from_mask(masks, size=(drawn_shapes.SIDE, drawn_shapes.SIDE))
        with torch.no_grad():
            apart.append((tower(image, alpha) - bed.start.encode_image(image).pooled).abs().max())
    return float(torch.stack(apart).max())
