"""A small CLIP of scenes whose texts are read by another embedder from now on, and classes that no pair shows."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tether.adaptation.distill import distil_text
from tether.core.gather import LOCAL
from tether.core.protocols import DualEncoder
from tether.core.types import Batch
from tether.data.sets.scenes import TEMPLATES, Dice, Scene, World, short
from tether.methods.proclip import ProclipStep, swap_text
from tether.models import Clip, create
from tether.models.composed.cached import CachedEncoder
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_texts
from tether.optim import AdamW, parameter_groups
from tether.training.schedules import Cosine
from tether.training.steps.module import StepModule
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.worlds.in_memory import (
    LARGEST_GRADIENT,
    dice_of,
    drawn,
    draws,
    fit_pairs,
    mean_recall,
    percent,
    unit_images,
    unit_texts,
)

SIDE, BATCH = 32, 64
BASE_SCENES, BASE_STEPS, BASE_WARMUP = 6_000, 1_000, 50
PAIRS, TEXTS = 800, 5_000
FIRST, STEPS = 300, 200
"""Steps of the first stage, on texts, and of the second, on pairs."""
EXPANSION, DECAY, WEIGHT = 2, 0.05, 1.0
FIRST_RATE, ADAPTER_RATE, IMAGE_RATE = 1e-3, 3e-4, 3e-4
"""Learning rates of the adapter in the first stage, and of adapter and image tower on pairs, for every arm."""
TESTED, GALLERY = 600, 400
"""Held-out scenes of each kind for the naming of classes, and in a gallery for retrieval."""

COLOURS = ("red", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring")
WORLD = World(
    things=(1, 1),
    shapes=SHAPES,
    colours=COLOURS,
    sizes=("medium", "large"),
    textures=("plain", "striped", "dotted"),
    backgrounds=("paper", "grass", "stone", "snow"),
    broken=0.0,
    pairs="all",
)
"""One thing an image; its class is a colour and a shape."""
CLASSES: tuple[tuple[str, str], ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
ABSENT_SHAPES = 2
DETAILS = ("size", "texture")

Kind = Literal["tuned", "absent_pairs", "absent_shapes"]
KINDS: tuple[Kind, ...] = ("tuned", "absent_pairs", "absent_shapes")
Teaching = Literal["texts", "captions"]
FIGURES = (*KINDS, "absent", "recall_all", "recall_tuned", "recall_absent", "cosine")


@dataclass(frozen=True, slots=True)
class CaptionedScenes:
    """Scenes as images with captions.

    Attributes:
        pixels: (n, 3, 32, 32).
        texts: a caption of each.
        labels: (n,) place in ``CLASSES``.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    texts: tuple[str, ...]
    labels: Int[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class SwapTuning:
    """How an encoder with other texts is tuned on the pairs.

    Attributes:
        taught: what its adapter learns from before: the unlabelled texts, the captions of the pairs, or None.
        steps: on pairs; 0 leaves it at what it was taught.
        weight: of the distillation of images.
        rate: learning rate of the image tower; None lets it rest.
    """

    taught: Teaching | None
    steps: int
    weight: float
    rate: float | None


def kinds(lab: Lab) -> dict[Kind, frozenset[tuple[str, str]]]:
    """The classes of a seed: 32 that the pairs show, 16 of the same words that they never join, 16 of two other shapes.

    Every colour lacks two of the six remaining shapes, or one; no word but those two shapes is missing.
    """
    dice = dice_of(lab, "kinds", salt="swapped texts")
    colours, shapes = dice.shuffled(COLOURS), dice.shuffled(SHAPES)
    kept = shapes[ABSENT_SHAPES:]
    pairs = {
        (colour, shape)
        for row, colour in enumerate(colours)
        for column, shape in enumerate(kept)
        if (row + column) % 3 == 0
    }
    others = {(colour, shape) for colour in colours for shape in shapes[:ABSENT_SHAPES]}
    return {
        "tuned": frozenset(CLASSES) - pairs - others,
        "absent_pairs": frozenset(pairs),
        "absent_shapes": frozenset(others),
    }


def caption(scene: Scene, dice: Dice) -> str:
    """A short caption: colour and shape, and now and then size, texture and the place."""
    details = [name for name in DETAILS if dice.chance(0.5)]
    template = dice.pick(tuple(TEMPLATES))
    background: Literal["omit", "say"] = "say" if dice.chance(0.5) else "omit"
    return short(scene, template=template, details=[*details, "colour"], background=background)


def told(classes: Collection[tuple[str, str]], *, count: int, dice: Dice, whole: bool = False) -> CaptionedScenes:
    """Scenes of some classes; ``whole`` says all of each in one wording, and never the same of two."""
    scenes, texts, labels = [], list[str](), []
    known = set[str]()
    while len(scenes) < count:
        scene = WORLD.draw(dice)
        name = (scene.things[0].colour, scene.things[0].shape)
        if name not in classes:
            continue
        text = short(scene, details=(*DETAILS, "colour"), background="say") if whole else caption(scene, dice)
        if whole and text in known:
            continue
        known.add(text)
        scenes.append(scene)
        texts.append(text)
        labels.append(CLASSES.index(name))
    return CaptionedScenes(_cut_out(scenes), tuple(texts), torch.tensor(labels))


def _cut_out(scenes: Sequence[Scene]) -> UInt8[Tensor, "n 3 32 32"]:
    """The part of each image around its thing."""
    cut = []
    for scene, pixels in zip(scenes, drawn(scenes, size=2 * SIDE), strict=True):
        thing = scene.things[0]
        left, top = (min(max(round(2 * SIDE * place) - SIDE // 2, 0), SIDE) for place in (thing.x, thing.y))
        cut.append(pixels[:, top : top + SIDE, left : left + SIDE])
    return torch.stack(cut)


def unlabelled(lab: Lab) -> list[str]:
    """Different captions of scenes of any class, whose images nobody sees."""
    dice, found = dice_of(lab, "texts", salt="swapped texts"), dict[str, None]()
    while len(found) < lab.steps(TEXTS, 32):
        found[caption(WORLD.draw(dice), dice)] = None
    return list(found)


def base(lab: Lab) -> Clip:
    """The CLIP that all begin as, trained on pairs of every class; read from the user's cache after a seed's first."""

    def teach() -> Clip:
        seen = told(CLASSES, count=lab.steps(BASE_SCENES, 64), dice=dice_of(lab, "base", salt="swapped texts"))
        model = create("tiny", seed=lab.seed, image_size=SIDE)
        tokens = model.tokenizer(list(seen.texts))
        model.prune_vocabulary_(tokens)
        rows = draws(len(tokens), size=BATCH, generator=lab.generator("base batches"), repeats=True)
        steps = lab.steps(BASE_STEPS)
        return fit_pairs(model, seen.pixels, tokens, rows=rows, steps=steps, warmup=BASE_WARMUP, seed=lab.seed)

    return cached_clip("swapped-base", teach, made_by=Path(__file__), facts=[lab.seed, lab.smoke])


ARMS: Mapping[str, SwapTuning] = {
    "direct": SwapTuning(None, STEPS, weight=0.0, rate=IMAGE_RATE),
    "longer": SwapTuning(None, 2 * STEPS, weight=0.0, rate=IMAGE_RATE),
    "locked": SwapTuning(None, STEPS, weight=0.0, rate=None),
    "first": SwapTuning("texts", 0, weight=0.0, rate=None),
    "second": SwapTuning(None, STEPS, weight=WEIGHT, rate=IMAGE_RATE),
    "both": SwapTuning("texts", STEPS, weight=WEIGHT, rate=IMAGE_RATE),
    "captions": SwapTuning("captions", STEPS, weight=WEIGHT, rate=IMAGE_RATE),
    "unheld": SwapTuning("texts", STEPS, weight=0.0, rate=IMAGE_RATE),
}


class Swaps:
    """One seed: the base, what there is to learn from, and the encoders whose adapters have been taught."""

    def __init__(self, lab: Lab) -> None:
        """Draw all data."""
        self.lab, self.old = lab, base(lab)
        self.kinds = kinds(lab)
        self.pairs = told(
            self.kinds["tuned"], count=lab.steps(PAIRS, 64), dice=dice_of(lab, "pairs", salt="swapped texts")
        )
        self.new = swap_text(self.old, "minilm", expansion=EXPANSION)
        self._taught: dict[Teaching | None, ComposedEncoder] = {None: self.new}

    def start(self, taught: Teaching | None) -> ComposedEncoder:
        """A copy of the encoder with other texts after the first stage, or before it."""
        if taught not in self._taught:
            texts = unlabelled(self.lab) if taught == "texts" else self.pairs.texts
            model = _copied(self.new)
            for part in (model.parts.image, model.parts.image_map):
                part.requires_grad_(False)
            distil_text(
                model,
                teacher=self.old,
                texts=texts,
                loss="proclip",
                steps=self.lab.steps(FIRST),
                batch_size=BATCH,
                learning_rate=FIRST_RATE,
                weight_decay=DECAY,
                generator=self.lab.generator("texts"),
            )
            self._taught[taught] = model
        return _copied(self._taught[taught])

    def tuned(self, how: SwapTuning) -> ComposedEncoder:
        """One arm, in evaluation mode; all see the same batches of pairs."""
        model, steps = self.start(how.taught), self.lab.steps(how.steps) if how.steps else 0
        if not steps:
            return model
        parts = model.parts
        model.requires_grad_(True)
        parts.text.lock_("locked")
        groups = parameter_groups(parts.text_map, weight_decay=DECAY)
        rates = [ADAPTER_RATE] * len(groups)
        parts.text_map.requires_grad_(False)
        for part in (parts.image, parts.image_map):
            part.requires_grad_(how.rate is not None)
        others = parameter_groups(model, weight_decay=DECAY)
        rates += [how.rate or ADAPTER_RATE] * len(others)
        parts.text_map.requires_grad_(True)
        optimizer = AdamW([*groups, *others], lr=ADAPTER_RATE)
        step = ProclipStep(model, steps=steps, weight=how.weight)
        forward, schedule = StepModule(model.train()), Cosine()
        ids = model.tokenizer(list(self.pairs.texts))
        batches = draws(len(ids), size=BATCH, generator=self.lab.generator("pairs"))
        learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for at in range(steps):
            rows = next(batches)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule.factor(at, steps=steps)
            optimizer.zero_grad(set_to_none=True)
            step(forward, Batch(self.pairs.pixels[rows], ids[rows]), step=at, gather=LOCAL).total.backward()
            nn.utils.clip_grad_norm_(learning, LARGEST_GRADIENT)
            optimizer.step()
            model.clamp_logit_scale_()
            step.follow_(step=at)
        return model.eval()


def _copied(model: ComposedEncoder) -> ComposedEncoder:
    """A copy with the same embedder, which rests."""
    return copy.deepcopy(model, {id(model.parts.text): model.parts.text})


class Exam:
    """Held-out scenes of each kind of class."""

    def __init__(self, swaps: Swaps, *, name: str = "test") -> None:
        """Draw them. Args: swaps: of the seed. name: of the draw; another one makes a validation part."""
        lab = swaps.lab
        self.names = tuple(f"a {colour} {shape}" for colour, shape in CLASSES)
        count, shown = lab.steps(TESTED, 8), lab.steps(GALLERY, 8)
        self.scenes: dict[str, CaptionedScenes] = {
            kind: told(swaps.kinds[kind], count=count, dice=dice_of(lab, f"{name} {kind}", salt="swapped texts"))
            for kind in KINDS
        }
        galleries = {
            "all": frozenset(CLASSES),
            "tuned": swaps.kinds["tuned"],
            "absent": swaps.kinds["absent_pairs"] | swaps.kinds["absent_shapes"],
        }
        self.galleries = {
            gallery: told(
                classes, count=shown, dice=dice_of(lab, f"{name} gallery {gallery}", salt="swapped texts"), whole=True
            )
            for gallery, classes in galleries.items()
        }
        self._before = {kind: _images(swaps.old, scenes) for kind, scenes in self.scenes.items()}
        self._embedder = CachedEncoder(swaps.new, sides=("text",), maps=False)
        self._rows: dict[tuple[str, ...], Tensor] = {}

    def figures(self, model: DualEncoder) -> Mapping[str, float]:
        """Of one encoder, in per cent but for the last.

        - ``tuned``, ``absent_pairs``, ``absent_shapes``: images named right among all 64 classes; ``absent``: the mean
          of the last two, which have as many classes.
        - ``recall_all``, ``recall_tuned``, ``recall_absent``: recall at 1 in galleries of these classes, mean of both
          directions.
        - ``cosine``: mean cosine of images' embeddings and those of the base, over all kinds alike.
        """
        text = self._texts(model, self.names)
        found, kept = dict[str, float](), []
        for kind, scenes in self.scenes.items():
            image = _images(model, scenes)
            found[kind] = percent((image @ text.T).argmax(dim=1) == scenes.labels)
            kept.append(float((image * self._before[kind]).sum(dim=1).mean()))
        found["absent"] = (found["absent_pairs"] + found["absent_shapes"]) / 2
        for gallery, scenes in self.galleries.items():
            found[f"recall_{gallery}"] = 100 * mean_recall(_images(model, scenes), self._texts(model, scenes.texts))
        return found | {"cosine": sum(kept) / len(kept)}

    @torch.no_grad()
    def _texts(self, model: DualEncoder, texts: tuple[str, ...]) -> Float[Tensor, "n d"]:
        """Unit rows; what the embedder gives is the same for every arm."""
        if not isinstance(model, ComposedEncoder):
            return unit_texts(model, texts)
        if texts not in self._rows:
            self._rows[texts] = encode_texts(self._embedder, texts)
        return F.normalize(model.parts.text_map(self._rows[texts]), dim=1)


@torch.no_grad()
def _images(model: DualEncoder, scenes: CaptionedScenes) -> Float[Tensor, "n d"]:
    return unit_images(model, scenes.pixels)


def measured(lab: Lab) -> dict[str, float]:
    """``FIGURE_ARM`` of every arm, see ``Exam.figures``.

    - ``base``: the old text tower.
    - ``direct``: the adapter knows nothing; contrastive tuning of adapter and image tower. ``longer``: twice the steps.
    - ``locked``: as ``direct``, the image tower at rest.
    - ``first``, ``second``, ``both``: the stages of ProCLIP.
    - ``captions``: both, the captions of the pairs in place of the unlabelled texts.
    - ``unheld``: both, without the distillation of images.
    """
    swaps = Swaps(lab)
    exam = Exam(swaps)
    found = {"base": exam.figures(swaps.old)} | {arm: exam.figures(swaps.tuned(how)) for arm, how in ARMS.items()}
    return {f"{figure}_{arm}": one[figure] for arm, one in found.items() for figure in FIGURES}
