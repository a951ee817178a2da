"""Drawings made worse step by step, and scores of how good they are: prompts, trained or not, sharpness, regression."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.adaptation.recipes.tuning import Tuning, play
from tether.core.gather import Gather
from tether.core.types import Batch, Loss
from tether.methods.qualiclip import LEVELS, degrade
from tether.methods.qualiclip.quality_ladder import Photos, ladder_correlations, level_order
from tether.methods.qualiclip.recipe import QualityRecipe, QualityStep
from tether.models.texts.prompt_quality import PROMPTS
from tether.models.towers.clip import Clip
from tether.tasks.quality import QualityScorer, sharpness
from tether.tasks.rank import fit_ridge
from tether.training.steps.module import StepModule
from tether.training.tensor_batches import TensorBatches
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.worlds import drawn_shapes, in_memory
from tether_lab.worlds.drawn_shapes import SIDE

SEEN = ("gaublur", "whitenoise", "jpeg", "darken", "nonlincontrchange")
"""Kinds that are learnt from; ``pixelate`` is no ladder on drawings of this size."""
UNSEEN = "lensblur"
OTHERS = ("motionblur", "impulsenoise", "brighten")
"""Further kinds that were not learnt from, for the notes."""
SCENES, HELD_OUT, EXAMPLES = 1_000, 60, 400
"""Drawings to learn from, others to be asked about, and those of the first that ridge regression learns from."""
THINGS = (2, 4)
STEPS, BATCH, RATE = 1_500, 8, 2e-3
M_RANK, M_CONS = 0.02, 0.05
"""Of cosines, which spread by 0.3 over drawings, where CLIP's spread by 0.02; its good and bad prompts lie near."""
SIZED_FOR = 64
"""Lengths of the tables times 48 / 64."""
SAID, SAID_STEPS, SAID_RATE = 3_000, 300, 1e-3
"""Captioned drawings of which two in three say how good they are, and the steps of the CLIP on them."""
SAID_OF: Mapping[str, tuple[int, ...]] = {
    "gaublur": (1, 2),
    "whitenoise": (4,),
    "jpeg": (3, 5),
    "darken": (0,),
    "nonlincontrchange": (6,),
}
"""Pairs of ``PROMPTS`` that captions name a kind by; its levels 3 to 5 are bad, and what is good is not degraded."""
NONSENSE = (
    *("Old river.", "Tall chair.", "Wooden spoon.", "Wet carpet.", "Quiet street.", "Empty bottle."),
    *("Morning train.", "Copper lamp.", "Long garden.", "Short letter.", "Warm kitchen.", "Cold bridge."),
    *("First window.", "Second door."),
)
"""As many prompts that have nothing to do with quality, and of which this CLIP has read none."""

Score = Callable[[Photos], Float[Tensor, " n"]]


@dataclass(frozen=True, slots=True)
class DegradedBench:
    """What all ways of a seed share.

    Attributes:
        model: a CLIP some of whose captions say that a drawing is good or bad.
        train: (n, 3, 64, 64) drawings to learn from.
        asked: (m, 3, 48, 48) others, as large as the model reads them.
    """

    model: Clip
    train: UInt8[Tensor, "n 3 h w"]
    asked: UInt8[Tensor, "m 3 s s"]


def prepare(lab: Lab) -> DegradedBench:
    """Teach the CLIP and draw the scenes."""
    world = drawn_shapes.shape_world(THINGS)
    parts = []
    for name, count in (("degraded", lab.steps(SCENES, 16)), ("degraded, held out", lab.steps(HELD_OUT, 5))):
        scenes = drawn_shapes.drawn_scenes(lab, name, count=count, world=world)
        parts.append(torch.stack([drawn_shapes.tensor_of(image) for image in scenes.drawn]))
    edge = (parts[1].shape[2] - SIDE) // 2
    asked = parts[1][:, :, edge : edge + SIDE, edge : edge + SIDE].contiguous()
    return DegradedBench(told_base(lab), parts[0], asked)


def told_base(lab: Lab) -> Clip:
    """The CLIP after further steps on captions that speak of quality, in eval mode; then from the user's cache."""

    def teach() -> Clip:
        count = lab.steps(SAID, 48)
        scenes = drawn_shapes.drawn_scenes(lab, "told", count=count, world=drawn_shapes.shape_world((1, 4)))
        pixels, texts = told(drawn_shapes.pixels_of(scenes), scenes.texts, generator=lab.generator("told"))
        model = drawn_shapes.captioned_base(lab)
        return in_memory.fit_captions(
            model,
            pixels,
            texts,
            steps=lab.steps(SAID_STEPS),
            seed=lab.seed,
            generator=lab.generator("told, batches"),
            further=(*PROMPTS, *drawn_shapes.PHRASES),
            batch_size=drawn_shapes.BATCH,
            learning_rate=SAID_RATE,
        )

    return cached_clip("told-shapes", teach, made_by=Path(__file__), facts=[lab.seed, lab.smoke])


def told(
    pixels: UInt8[Tensor, "n 3 s s"], captions: Sequence[str], *, generator: torch.Generator
) -> tuple[UInt8[Tensor, "n 3 s s"], list[str]]:
    """Of three drawings one stays, one is called good in its caption, and one is made worse and called bad."""
    kinds = list(SAID_OF)

    def drawn(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    found, texts = pixels.clone(), list(captions)
    for row, said in enumerate(captions):
        kind = kinds[drawn(len(kinds))]
        pair = SAID_OF[kind][drawn(len(SAID_OF[kind]))]
        if row % 3 == 1:
            texts[row] = f"{PROMPTS[2 * pair]} {said}"
        elif row % 3 == 2:
            texts[row] = f"{PROMPTS[2 * pair + 1]} {said}"
            worse = degrade(pixels[row] / 255, kind, 3 + drawn(3), generator, sized_for=SIZED_FOR)
            found[row] = (255 * worse).round().to(torch.uint8)
    return found, texts


def by_prompts(bed: DegradedBench) -> Score:
    """The CLIP as it is."""
    return QualityScorer(bed.model, grid=1).score


def by_training(lab: Lab, bed: DegradedBench, *, prompts: Sequence[str] = PROMPTS) -> Score:
    """A copy of the CLIP that has learnt the kinds of ``SEEN``, by these prompts or by others."""
    model, tuning = _tuning(lab, bed, prompts=prompts)
    play(tuning, model, seed=lab.seed)
    return QualityScorer(model.eval(), prompts, grid=1).score


def by_regression(lab: Lab, bed: DegradedBench) -> Score:
    """A copy of the CLIP whose image side and a linear map have learnt the level itself, on the same crops as often."""
    model, tuning = _tuning(lab, bed, prompts=PROMPTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lab.seed)
        head = nn.Linear(model.dim, 1)
    step = cast(QualityStep, tuning.step)
    by_level = LevelStep(step.recipe, step.text, seed=step.seed)
    play(replace(tuning, step=by_level, modules={"level": head}, finish=None), model, seed=lab.seed)
    model.eval()
    return lambda images: -head(_rows(model, images)).detach()[:, 0]


class LevelStep(QualityStep):
    """Squared error of a linear map to the level, in place of the ranking loss; a ``core.protocols.Step``."""

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        rows = F.normalize(self.rows(module, batch, step=step, gather=gather), dim=-1)
        level = torch.linspace(-1, 1, len(rows))[:, None, None]
        return Loss((module.heads["level"](rows)[..., 0] - level).square().mean())


def by_ridge(lab: Lab, bed: DegradedBench) -> Score:
    """Ridge regression of the level on the CLIP's embeddings of degraded drawings; the CLIP rests."""
    edge = (bed.train.shape[2] - SIDE) // 2
    drawn = bed.train[: lab.steps(EXAMPLES, 8), :, edge : edge + SIDE, edge : edge + SIDE]
    rows, levels, generator = list[Tensor](), list[int](), lab.generator("ridge")
    for image in drawn:
        worse = [
            degrade(image / 255, kind, level, generator, sized_for=SIZED_FOR)
            for kind in SEEN
            for level in range(1, LEVELS + 1)
        ]
        rows.append(_rows(bed.model, [(255 * one).round().to(torch.uint8) for one in worse]))
        levels += [level for _ in SEEN for level in range(1, LEVELS + 1)]
    fitted = fit_ridge(torch.cat(rows), targets=np.array(levels, np.float64))
    return lambda images: -torch.from_numpy(fitted(_rows(bed.model, images)))


def by_sharpness(images: Photos) -> Float[Tensor, " n"]:
    """The variance of the Laplacian."""
    return torch.tensor([sharpness(image) for image in images])


def correlation(score: Score, bed: DegradedBench, *, kind: str) -> float:
    """Spearman's correlation of score and level, of each drawing, the mean over drawings."""
    found = level_order(score, list(bed.asked), kinds=[kind] * len(bed.asked), sized_for=SIZED_FOR)
    return float(ladder_correlations(found).mean())


def _tuning(lab: Lab, bed: DegradedBench, *, prompts: Sequence[str]) -> tuple[Clip, Tuning]:
    """A copy of the CLIP, and the recipe's tuning of it."""
    recipe = QualityRecipe(
        prompts=prompts,
        kinds=SEEN,
        sized_for=SIZED_FOR,
        m_cons=M_CONS,
        m_rank=M_RANK,
        steps=lab.steps(STEPS),
        batch_size=BATCH,
        learning_rate=RATE,
    )
    model = copy.deepcopy(bed.model)
    batches = TensorBatches({"image": bed.train}, batch_size=BATCH, seed=lab.seed)
    return model, recipe.describe(model, batches, seed=lab.seed)


@torch.no_grad()
def _rows(model: Clip, images: Photos) -> Float[Tensor, "n d"]:
    return F.normalize(model.encode_image(torch.stack(list(images))).pooled, dim=1)
