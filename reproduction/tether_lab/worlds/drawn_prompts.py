"""Prompts drawn for one small CLIP, judged by another, which nothing was drawn for, and by a reader of attributes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.generation import ClipGoal, PlainView, RandomViews, paint
from tether.generation.canvases import Canvas, PixelCanvas, PrimitiveCanvas, StrokeCanvas
from tether.generation.canvases.primitives import Primitive
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.lab.lab import Lab as _Lab
from tether_lab.worlds import drawn_shapes
from tether_lab.worlds.drawn_shapes import COLOURS, PHRASES, SHAPES, SIDE
from tether_lab.worlds.in_memory import percent, unit_texts

PROMPTS, STEPS, PIXEL_STEPS, STROKES = 12, 150, 350, 24
"""Drawings of each arm, steps of strokes and of pixels, which take as long, and strokes."""
FASTER, PIXELS_FASTER = 2.0, 1.5
"""What the rates of a canvas are multiplied by; chosen on pilot seeds."""
IDLE = 1e-3
"""Change of the guide's cosine below which a stroke says nothing."""
READ, READER_STEPS, READER_BATCH = 1_000, 250, 64
"""Scenes that the reader of attributes learns from, as many close-ups, and its steps."""

Make = Callable[[torch.Generator], Canvas]


def strokes(draws: torch.Generator) -> StrokeCanvas:
    """CLIPDraw's, looked at within what can be seen."""
    return StrokeCanvas(n_strokes=STROKES, size=SIDE, samples=8, reach=8.0, generator=draws)


def primitives(draws: torch.Generator) -> PrimitiveCanvas:
    """As many strokes: a line, a circle and a semicircle in each of the middle patches."""
    kinds: dict[Primitive, int] = {"line": 1, "circle": 1, "semicircle": 1}
    return PrimitiveCanvas(
        kinds=kinds, patches=STROKES // len(kinds), patch=SIDE // 4, size=SIDE, samples=8, reach=8.0, generator=draws
    )


def pixels(draws: torch.Generator) -> PixelCanvas:
    """Free ones."""
    return PixelCanvas(size=SIDE, generator=draws)


@dataclass(frozen=True, slots=True)
class DrawingBed:
    """What one seed is drawn for and judged by.

    Attributes:
        guide: the CLIP that is drawn for.
        judge: one of another seed, never drawn for.
        texts: (24, d) unit rows of the judge, of every phrase.
        reader: tells colour and shape of images in 0 to 1.
        asked: numbers of the phrases that are drawn.
    """

    guide: Clip
    judge: Clip
    texts: Float[Tensor, "phrases d"]
    reader: nn.Module
    asked: tuple[int, ...]


def bed(lab: Lab, *, prompts: int = PROMPTS) -> DrawingBed:
    """Models of a seed; seeds 2 k and 2 k + 1 judge each other's drawings."""
    guide = drawn_shapes.captioned_base(lab)
    judge = drawn_shapes.captioned_base(_Lab(lab.seed ^ 1, smoke=lab.smoke))
    with torch.no_grad():
        texts = unit_texts(judge, list(PHRASES))
    order = torch.randperm(len(PHRASES), generator=lab.generator("prompts")).tolist()
    return DrawingBed(guide.eval(), judge.eval(), texts, reader(lab), tuple(order[: lab.steps(prompts, 2)]))


@dataclass(frozen=True, slots=True)
class Drawings:
    """What an arm drew.

    Attributes:
        canvases: one for each prompt.
        images: (n, 3, s, s) in 0 to 1.
        seconds: of the processor, all drawings together; 0 in a smoke run, whose figures must not move.
    """

    canvases: Sequence[Canvas]
    images: Float[Tensor, "n 3 s s"]
    seconds: float


def drawings(
    lab: Lab,
    found: DrawingBed,
    make: Make,
    *,
    steps: int = STEPS,
    faster: float = 1.0,
    views: RandomViews | PlainView | None = None,
    dropout: float | None = None,
) -> Drawings:
    """One drawing of each prompt.

    Args:
        lab: seed.
        found: the bed.
        make: a canvas from a generator, at the CLIP's size.
        steps: of each.
        faster: what the canvas's rates are multiplied by.
        views: default: CLIPDraw's four.
        dropout: in place of the canvas's.
    """
    canvases, images = list[Canvas](), list[Tensor]()
    start = time.process_time()
    for number in found.asked:
        canvas = make(lab.generator(f"start {PHRASES[number]}"))
        goal = ClipGoal.of_prompts(found.guide, PHRASES[number], views=views)
        rates = {role: rate * faster for role, rate in canvas.rates.items()}
        painted = paint(
            canvas, goal, steps=lab.steps(steps), rates=rates, dropout=dropout, seed=lab.seed * 100 + number, frames=0
        )
        canvases.append(canvas)
        images.append(painted.image)
    seconds = 0.0 if lab.smoke else time.process_time() - start
    return Drawings(canvases, torch.stack(images), seconds)


@torch.no_grad()
def judged(found: DrawingBed, drawn: Drawings) -> dict[str, float]:
    """Shares in per cent: prompts named right by the judge among 24, and colours and shapes by the reader.

    ``likely`` is the judge's mean probability of the right one, ``guide`` the guide's own mean cosine, which rises by
    construction.
    """
    right = torch.tensor(found.asked)
    images = (drawn.images * 255).round().to(torch.uint8)
    scores = found.judge.encode_image(images).unit @ found.texts.T
    own = unit_texts(found.guide, [PHRASES[number] for number in found.asked])
    colour, shape = found.reader(drawn.images)
    return {
        "top1": percent(scores.argmax(1) == right),
        "likely": 100 * float((found.judge.logit_scale * scores).softmax(1)[range(len(right)), right].mean()),
        "colour": percent(colour.argmax(1) == right // len(SHAPES)),
        "shape": percent(shape.argmax(1) == right % len(SHAPES)),
        "attributes": 50
        * float(
            (colour.argmax(1) == right // len(SHAPES)).float().mean()
            + (shape.argmax(1) == right % len(SHAPES)).float().mean()
        ),
        "guide": float((found.guide.encode_image(images).unit * own).sum(1).mean()),
        "seconds": drawn.seconds,
    }


@torch.no_grad()
def idle_share(found: DrawingBed, drawn: Drawings) -> float:
    """Strokes, in per cent, without which the guide's cosine of drawing and prompt is the same within 0.001."""
    shares = list[float]()
    for number, canvas in zip(found.asked, drawn.canvases, strict=True):
        goal = ClipGoal.of_prompts(found.guide, PHRASES[number], views=PlainView())
        text = unit_texts(found.guide, [PHRASES[number]])[0]
        without = ~torch.eye(canvas.elements, dtype=torch.bool)
        images = torch.stack([canvas.render(), *(canvas.render(keep=keep) for keep in without)])
        cosines = goal.rows(images) @ text
        shares.append(float(((cosines[1:] - cosines[0]).abs() < IDLE).float().mean()))
    return 100 * sum(shares) / len(shares)


class AttributeReader(nn.Module):
    """A small convolutional network that tells colour and shape of a thing, trained on labelled scenes."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        layers = list[nn.Module]()
        for before, after in ((3, 24), (24, 48), (48, 48)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.colour, self.shape = (nn.Linear(48 * (SIDE // 8) ** 2, len(names)) for names in (COLOURS, SHAPES))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b s"]]:
        """Logits of colours and of shapes."""
        seen = self.body(image - 0.5)
        return self.colour(seen), self.shape(seen)


def reader(lab: Lab) -> AttributeReader:
    """One that has learnt from scenes of its own, with their labels."""
    scenes = drawn_shapes.drawn_scenes(
        lab, "for the reader", count=lab.steps(READ, 32), world=drawn_shapes.shape_world((1, 1))
    )
    pixels = torch.cat([drawn_shapes.pixels_of(scenes), drawn_shapes.close_ups(scenes, lab=lab)]).float() / 255
    named: Int[Tensor, " n"] = torch.tensor([PHRASES.index(phrases[0]) for phrases in scenes.phrases]).repeat(2)
    draws = lab.generator("reader")
    with torch.random.fork_rng():
        torch.manual_seed(lab.seed)
        made = AttributeReader()
    steps = lab.steps(READER_STEPS)
    mover = torch.optim.Adam(made.parameters(), lr=2e-3)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (READER_BATCH,), generator=draws)
        colour, shape = made(pixels[rows])
        wanted = named[rows]
        loss = F.cross_entropy(colour, wanted // len(SHAPES)) + F.cross_entropy(shape, wanted % len(SHAPES))
        mover.zero_grad()
        loss.backward()
        mover.step()
    return made.eval()
