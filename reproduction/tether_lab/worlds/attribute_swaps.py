"""Scenes and their attribute swaps, a small CLIP, and two questions: who has which colour, and which image is it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.atomic_io import read_json, write_json
from tether.core.protocols import Objective, Step
from tether.core.types import Batch, ImageSpec
from tether.data.images import load
from tether.evaluate.retrieval import recall_at_k
from tether.losses import ClipLoss
from tether.methods.tripletclip import NegClipLoss, SceneTwins
from tether.models import create
from tether.models.tokenizer import ClipTokenizer
from tether.models.towers.clip import Clip
from tether.optim.clip import NoClip
from tether.training.steps.presets import ContrastiveStep, HardNegativeStep
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model
from tether_lab.worlds.in_memory import draws, fit_batches, unit_images

SIDE, CONTEXT = 32, 16
QUADRUPLES, HELD_OUT = 2500, 400
GALLERIES = 4
"""Recall is averaged over so many galleries of held-out quadruples, each without two that show the same colours and
shapes, so that every caption in one has exactly one image."""
WARMUP = 30
WORLD: Mapping[str, Any] = {
    "colours": ("red", "orange", "green", "turquoise", "blue", "purple", "pink", "brown"),
    "shapes": ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon"),
    "sizes": ("medium", "large"),
    "textures": ("plain",),
    "backgrounds": ("paper",),
}


@dataclass(frozen=True, slots=True)
class Quadruples:
    """Images and captions with their twins; row i of the second half is the twin of row i of the first.

    Attributes:
        pixels: (2n, 3, 32, 32).
        tokens: (2n, l).
        shown: (n,) equal where the same colours and shapes are shown.
    """

    pixels: UInt8[Tensor, "n2 3 h w"]
    tokens: Int[Tensor, "n2 l"]
    shown: tuple[str, ...]

    def __len__(self) -> int:
        """How many quadruples."""
        return len(self.shown)


@dataclass(frozen=True, slots=True)
class SwapOutcome:
    """What a model does on quadruples whose colours and shapes were never shown together in training.

    Attributes:
        image_binding: share of images (twins included) that prefer their caption to its twin; chance 0.5.
        text_binding: share of captions that prefer their image to its twin; chance 0.5.
        image_recall: recall at 1 of captions, near twins among the candidates.
        text_recall: recall at 1 of images, near twins among the candidates.
    """

    image_binding: float
    text_binding: float
    image_recall: float
    text_recall: float

    @property
    def binding(self) -> float:
        """Mean of both directions."""
        return (self.image_binding + self.text_binding) / 2

    @property
    def recall(self) -> float:
        """Mean of both directions."""
        return (self.image_recall + self.text_recall) / 2


@functools.lru_cache(maxsize=8)
def quadruples(split: str, *, count: int) -> Quadruples:
    """The first ``count`` of a split."""
    source = SceneTwins(split=split, quadruples=count, **WORLD)  # pyrefly: ignore[bad-argument-type]
    rows = [source.row(index) for index in range(count)]
    spec = ImageSpec((SIDE, SIDE))
    images = [row.image for row in rows] + [row.meta["negative_image"] for row in rows]
    texts = [row.texts[0] for row in rows] + [str(row.meta["negative_text"]) for row in rows]
    shown = [" ".join(sorted(row.texts[0].replace(" and ", " ").split())) for row in rows]
    pixels = torch.stack([load(image, spec) for image in images])  # pyrefly: ignore[bad-argument-type]
    return Quadruples(pixels, ClipTokenizer(CONTEXT)(texts), tuple(shown))


def train(
    objective: Objective, *, seed: int, steps: int, batch: int = 128, form: str = "quadruples", count: int = QUADRUPLES
) -> Clip:
    """A small CLIP after ``steps`` steps.

    Args:
        objective: the loss.
        seed: of its weights and of the order of the rows.
        steps: of the optimiser.
        batch: positive pairs in one step.
        form: ``quadruples``, with twins in ``extra``; ``captions``, with those of the captions alone; or all images
            as ordinary ``pairs``.
        count: of training quadruples.
    """
    data = quadruples("train", count=count)
    model = create("tiny", seed=seed, image_size=SIDE, context=CONTEXT)
    model.prune_vocabulary_(data.tokens)
    kind = ContrastiveStep if form == "pairs" else HardNegativeStep
    generator = torch.Generator().manual_seed(seed)
    batches = _batches(data, size=min(batch, count), form=form, generator=generator)
    run(model, kind(objective, steps=steps, seed=seed), batches, steps=steps)
    return model


def without_twin_images(lab: Lab, *, steps: int, batch: int) -> dict[str, SwapOutcome]:
    """What CLIP on twins as ordinary pairs learns, and NegCLIP; measured at a seed's first call, then cached.

    ``clip_double_batch`` and ``clip_double_steps`` have twice the pairs a step or twice the steps of ``clip``, so they
    encode as many images and texts as a loss on ``batch`` quadruples does; ``neg_clip`` has the twins' captions.

    Args:
        lab: seed and budget.
        steps: of the optimiser.
        batch: pairs in a step.
    """
    steps, count, held_out = lab.steps(steps), lab.steps(QUADRUPLES, 64), lab.steps(HELD_OUT, 40)
    runs = {
        "clip": (ClipLoss(), batch, steps, "pairs"),
        "clip_double_batch": (ClipLoss(), 2 * batch, steps, "pairs"),
        "clip_double_steps": (ClipLoss(), batch, 2 * steps, "pairs"),
        "neg_clip": (NegClipLoss(), batch, steps, "captions"),
    }

    def make(folder: Path) -> None:
        found = {}
        for name, (objective, size, longer, form) in runs.items():
            model = train(objective, seed=lab.seed, steps=longer, batch=size, form=form, count=count)
            found[name] = asdict(measure(model, quadruples("test", count=held_out)))
        write_json(folder / "found.json", found)

    facts = [lab.seed, steps, batch, count, held_out]
    folder = cached_model("attribute-swaps", made_by=Path(__file__), facts=facts, make=make)
    return {name: SwapOutcome(**one) for name, one in read_json(folder / "found.json").items()}


def beside_twin_images(
    lab: Lab, name: str, objective: Objective, *, steps: int, batch: int
) -> tuple[Clip, dict[str, SwapOutcome]]:
    """The CLIP that learns quadruples by an objective, and what it learnt beside ``without_twin_images``, by name."""
    found = without_twin_images(lab, steps=steps, batch=batch)
    count = lab.steps(QUADRUPLES, 64)
    model = train(objective, seed=lab.seed, steps=lab.steps(steps), batch=batch, count=count)
    return model, found | {name: measure(model, quadruples("test", count=lab.steps(HELD_OUT, 40)))}


def run(model: Clip, step: Step, batches: Iterator[Batch], *, steps: int) -> None:
    """Train a model in place, on the CPU in float32, and leave it in eval mode."""
    fit_batches(model, step, batches, steps=steps, warmup=min(WARMUP, steps - 1), clipper=NoClip())


def _batches(data: Quadruples, *, size: int, form: str, generator: torch.Generator) -> Iterator[Batch]:
    count = len(data)
    for rows in draws(2 * count if form == "pairs" else count, size=size, generator=generator):
        if form == "pairs":
            yield Batch(data.pixels[rows], data.tokens[rows])
            continue
        swapped = torch.rand(size, generator=generator) < 0.5  # which of the two is the positive
        first, second = (rows + count * (swapped if of == 0 else ~swapped) for of in (0, 1))
        extra = {"negative_text": data.tokens[second]}
        if form == "quadruples":
            extra["negative_image"] = data.pixels[second]
        yield Batch(data.pixels[first], data.tokens[first], extra)


def measure(model: Clip, data: Quadruples) -> SwapOutcome:
    """Both questions, on held-out quadruples."""
    image = unit_images(model, data.pixels)
    with torch.no_grad():
        text = torch.cat([model.encode_text(part).unit for part in data.tokens.split(256)])
    count = len(data)
    own = (image * text).sum(dim=1)
    other_text, other_image = (rows.roll(count, dims=0) for rows in (text, image))
    found = [_recall(image, text, rows) for rows in _galleries(data)]
    return SwapOutcome(
        image_binding=float((own > (image * other_text).sum(dim=1)).double().mean()),
        text_binding=float((own > (other_image * text).sum(dim=1)).double().mean()),
        image_recall=sum(one for one, _ in found) / len(found),
        text_recall=sum(two for _, two in found) / len(found),
    )


def _recall(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], rows: Tensor) -> tuple[float, float]:
    found = recall_at_k(image[rows], text[rows], k=(1,))
    return found["image_to_text_r1"], found["text_to_image_r1"]


def _galleries(data: Quadruples) -> list[Tensor]:
    """Rows of both halves, in galleries whose quadruples all show something else."""
    taken: dict[str, int] = {}
    members: list[list[int]] = [[] for _ in range(GALLERIES)]
    for index, shown in enumerate(data.shown):
        gallery = taken.get(shown, 0)
        taken[shown] = gallery + 1
        if gallery < GALLERIES:
            members[gallery].append(index)
    return [torch.tensor(rows + [row + len(data) for row in rows]) for rows in members if rows]
