"""Images out of a small CLIP at rest, of things that its bank does not hold, and what a second CLIP says of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.generation import ClipGoal, ColorViews, FinerField, ImageBank, fit_field, paint
from tether.generation.canvases import Canvas, PixelCanvas
from tether.generation.inversion.field_fit import blurred
from tether.generation.inversion.implicit import BLUR, GAMMA, InversionPlan, plan_inversion, start_image
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.worlds import drawn_prompts, drawn_shapes, in_memory
from tether_lab.worlds.drawn_shapes import PHRASES, SHAPES, SIDE

SCENES, REAL = 300, 200
"""Scenes of one thing that the bank is made of, each with a close-up, and as many that the judge compares with."""
PROMPTS, VIEWS, NEIGHBOURS = 8, 4, 32
STEPS, PIXEL_STEPS, FIT_STEPS, POINTS, FIT_RATE = 100, 420, 150, 512, 3e-3
"""Of a field, of pixels, which take as long together with the field's start, and of that start."""
FIELD: dict[str, Any] = {"width": 64, "layers": 4, "omega": 10.0, "bias_bound": 1.0}
FIELD_RATE, FIELD_RATE_AT_ONCE, PIXEL_RATE, NOISE_RATE = 1e-3, 1e-3, 0.02, 0.01
"""Chosen on pilot seed 10, by the second CLIP's mean probability of the phrase."""


@dataclass(frozen=True, slots=True)
class InversionBed:
    """What a seed's images are made for and judged by.

    Attributes:
        guide: the CLIP they are made for.
        judge: one of another seed, which nothing is made for.
        texts: (24, d) unit rows of the judge, of every phrase.
        real: (n, d) unit rows of the judge, of real scenes and close-ups.
        bank: of the guide.
        shown: number of the phrase that each image of the bank shows.
        asked: numbers of the phrases that images are made of.
        detail: high-frequency share of real images.
        reader: tells colour and shape of images in 0 to 1; it was taught by labels.
    """

    guide: Clip
    judge: Clip
    texts: Float[Tensor, "phrases d"]
    real: Float[Tensor, "n d"]
    bank: ImageBank
    shown: tuple[int, ...]
    asked: tuple[int, ...]
    detail: float
    reader: drawn_prompts.AttributeReader


def bed(lab: Lab, *, many: int = PROMPTS) -> InversionBed:
    """Models, bank and phrases of a seed; seeds 2 k and 2 k + 1 judge each other's images."""
    guide, judge = (drawn_shapes.captioned_base(Lab(seed, smoke=lab.smoke)) for seed in (lab.seed, lab.seed ^ 1))
    pixels, texts, shown = _pictures(lab, "bank", count=lab.steps(SCENES, 40))
    bank = ImageBank.of(guide, pixels, texts)
    real, _, _ = _pictures(lab, "real", count=lab.steps(REAL, 16))
    rows, text_rows = in_memory.unit_pairs(judge, real, PHRASES)
    asked = torch.randperm(len(PHRASES), generator=lab.generator("prompts"))[: lab.steps(many, 2)]
    detail = float(detail_share(real.float() / 255).mean())
    reader = drawn_prompts.reader(lab)
    return InversionBed(guide, judge, text_rows, rows, bank, shown, tuple(asked.tolist()), detail, reader)


def _pictures(lab: Lab, name: str, *, count: int) -> tuple[UInt8[Tensor, "n 3 s s"], list[str], tuple[int, ...]]:
    """Scenes of one thing and close-ups of them, their captions, and the number of the phrase that each shows."""
    scenes = drawn_shapes.drawn_scenes(lab, f"inverted {name}", count=count, world=drawn_shapes.shape_world((1, 1)))
    pixels = torch.cat([drawn_shapes.pixels_of(scenes), drawn_shapes.close_ups(scenes, lab=lab)])
    shown = tuple(PHRASES.index(phrases[0]) for phrases in scenes.phrases)
    return pixels, scenes.texts * 2, shown * 2


def detail_share(images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Power above a quarter of the highest frequency, as a share of all that is not the mean."""
    power = torch.fft.fft2(images).abs().square().mean(dim=1)
    y, x = (torch.fft.fftfreq(side) for side in images.shape[2:])
    radius = (y[:, None].square() + x.square()).sqrt()
    return (power * (radius > 0.125)).sum(dim=(1, 2)) / (power * (radius > 0)).sum(dim=(1, 2)).clamp(min=1e-12)


@dataclass(frozen=True, slots=True)
class Start:
    """Where all arms of a text begin.

    Attributes:
        plan: of the guide and its bank.
        image: the bank's nearest.
        blurred: the same, blurred.
        field: fitted to it.
        seconds: of the processor that the fit took.
    """

    plan: InversionPlan
    image: Float[Tensor, "3 s s"]
    blurred: Float[Tensor, "3 s s"]
    field: FinerField
    seconds: float


def starts(lab: Lab, found: InversionBed) -> list[Start]:
    """One of each text."""
    made = list[Start]()
    for number in found.asked:
        text = PHRASES[number]
        bank = found.bank.without(
            [name for name, shown in zip(found.bank.ids, found.shown, strict=True) if shown == number]
        )
        plan = plan_inversion(found.guide, text, bank=bank, k=min(NEIGHBOURS, len(bank.ids)))
        image = start_image(plan, bank)
        assert image is not None
        blur = BLUR * SIDE
        field = FinerField(size=SIDE, generator=lab.generator(f"field {text}"), **FIELD)
        begun = time.process_time()
        fit_field(
            image, field=field, gamma=GAMMA, steps=lab.steps(FIT_STEPS), blur=blur, lr=FIT_RATE, points=POINTS,
            seed=lab.seed,
        )  # fmt: skip
        spent = time.process_time() - begun
        made.append(Start(plan, image, blurred(image, blur), field, spent))
    return made


Make = Callable[[Start], Canvas]


def field(*, schedule: bool = True) -> Make:
    """The fitted field, painted layer after layer or all at once."""

    def make(start: Start) -> FinerField:
        made = copy.deepcopy(start.field)
        made.sigma = made.sigma if schedule else None
        return made

    return make


def pixels(*, lab: Lab, from_start: bool) -> Make:
    """Free pixels from the blurred image that the field was fitted to, or from grey noise."""

    def make(start: Start) -> PixelCanvas:
        canvas = PixelCanvas(size=SIDE, generator=lab.generator("noise"))
        if from_start:
            with torch.no_grad():
                canvas.pixels.copy_(start.blurred)
        return canvas

    return make


@dataclass(frozen=True, slots=True)
class InvertedImages:
    """What an arm made.

    Attributes:
        images: (n, 3, s, s) in 0 to 1, one of each text.
        seconds: of the processor, all together, without the starts.
    """

    images: Float[Tensor, "n 3 s s"]
    seconds: float


def inverted(
    lab: Lab, found: InversionBed, begun: Sequence[Start], make: Make, *, steps: int, rate: float
) -> InvertedImages:
    """One image of each text, with the same aim, views and draws whatever the canvas."""
    images, start = list[Tensor](), time.process_time()
    for number, one in zip(found.asked, begun, strict=True):
        canvas = make(one)
        goal = ClipGoal(found.guide, [one.plan.aim], views=ColorViews(count=VIEWS))
        rates = dict.fromkeys(canvas.rates, rate)
        painted = paint(canvas, goal, steps=lab.steps(steps), rates=rates, seed=lab.seed * 100 + number, frames=0)
        images.append(painted.image)
    return InvertedImages(torch.stack(images), time.process_time() - start)


@torch.no_grad()
def judged(found: InversionBed, made: Float[Tensor, "n 3 s s"]) -> dict[str, float]:
    """What is said of images, in percent where it is a share.

    ``top1``: whose phrase is the nearest of 24 for the second CLIP; ``colour``, ``shape``: at least that part of it;
    ``likely``: its mean probability of the phrase; ``distance``: 1 - cosine to the nearest real image for it;
    ``detail``: the high-frequency share as a multiple of real images'; ``guide``: the guide's own cosine;
    ``attributes``: colours and shapes that the reader tells right, a mean of both.
    """
    right: Int[Tensor, " n"] = torch.tensor(found.asked)
    seen = (made * 255).round().to(torch.uint8)
    rows, _ = in_memory.unit_pairs(found.judge, seen, [])
    scores = rows @ found.texts.T
    named = scores.argmax(1)
    own, text = in_memory.unit_pairs(found.guide, seen, [PHRASES[number] for number in found.asked])
    read = [one.argmax(1) for one in found.reader(seen.float() / 255)]
    told = (read[0] == right // len(SHAPES)).float() + (read[1] == right % len(SHAPES)).float()
    probability = (found.judge.logit_scale * scores).softmax(1)[range(len(right)), right]
    return {
        "top1": in_memory.percent(named == right),
        "colour": in_memory.percent(named // len(SHAPES) == right // len(SHAPES)),
        "shape": in_memory.percent(named % len(SHAPES) == right % len(SHAPES)),
        "likely": 100 * float(probability.mean()),
        "distance": float((1 - (rows @ found.real.T).amax(1)).mean()),
        "detail": float(detail_share(made).mean()) / found.detail,
        "attributes": 50 * float(told.mean()),
        "guide": float(F.cosine_similarity(own, text).mean()),
    }
