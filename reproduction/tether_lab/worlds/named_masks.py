"""Masks of shapes from a small CLIP: heads that find them, and a tower that is told how well masks fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.adaptation.recipes.class_masks import class_masks, perturbed
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.masks import HEAD, NAMER, PROMPTS, MaskAware, MaskText
from tether.adaptation.recipes.tuning import play
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.core.types import Batch, Loss, Row
from tether.data.blocks import IndexedSource
from tether.data.sets.scenes import World
from tether.evaluate.dense import MaskScores
from tether.losses.mask_aware import soft_iou
from tether.losses.masks import dice_loss
from tether.models.embed import encode_texts
from tether.models.features.dense import DensePath, dense_image
from tether.models.features.region_pooling import pool_masks
from tether.models.heads.content_transfer import region_text_logits
from tether.models.heads.mask_decoder import MaskHead, PixelDecoder
from tether.models.heads.mask_models import NamedMasks, PromptMasks, SeenImage, see_image
from tether.models.towers.clip import Clip
from tether.training.steps.module import InsideStep, StepModule
from tether_lab.lab.lab import Lab
from tether_lab.lab.trace import saw
from tether_lab.worlds import drawn_shapes
from tether_lab.worlds.drawn_shapes import DRAWN, PHRASES, SHAPES, ShapeScenes

CLUTTER = ("heart", "cross")
CLASSES = (*sorted(SHAPES), "background")
"""Things of other shapes are background."""
THINGS = (2, 4)
TRAIN, ASKED = 1_500, 300
BATCH = 16
PIXEL = "pixel"
Kind = Literal["masks", "masks_alone", "pixels", "pixels_dice"]
"""Masks with the contrast of masks and texts, masks without it, or pixels compared with texts: by cross-entropy of
each, or by that and the dice loss of each class, which masks have, too."""
BASE = tuple(PHRASES[at] for at in range(len(PHRASES)) if (at // len(SHAPES) + at % len(SHAPES)) % 3 == 0)
NOVEL = tuple(PHRASES[at] for at in range(len(PHRASES)) if (at // len(SHAPES) + at % len(SHAPES)) % 3 == 1)
"""Two of six colours and shapes each with every colour and shape: those with masks, and some of those without."""
Tuned = Literal["full", "no_compensation", "no_transfer"]


class NamedScenes(IndexedSource):
    """Scenes whose regions have other phrases than what stands in them."""

    def __init__(self, scenes: ShapeScenes, phrases: Sequence[Sequence[str]]) -> None:
        """Args: scenes: drawn. phrases: of the things of each."""
        self.name, self.version = f"{scenes.name} named", scenes.version
        self.rows = [
            replace(row, meta={**row.meta, "phrases": list(some)})
            for row, some in zip(scenes.rows, phrases, strict=True)
        ]

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]


@dataclass(frozen=True, slots=True)
class NamedBench:
    """What all arms of a seed share.

    Attributes:
        start: the CLIP.
        train: scenes with masks.
        asked: scenes to be looked at.
    """

    start: Clip
    train: ShapeScenes
    asked: ShapeScenes


def cluttered_world() -> World:
    """Things of four shapes, textured, among some of two others."""
    return replace(
        drawn_shapes.shape_world(THINGS),
        shapes=(*SHAPES, *CLUTTER),
        sizes=("medium", "large"),
        textures=("plain", "striped", "dotted"),
    )


def prepare_named(lab: Lab, *, clutter: bool) -> NamedBench:
    """Teach the CLIP and draw scenes, cluttered ones or those of its own world."""
    world = cluttered_world() if clutter else drawn_shapes.shape_world(THINGS)
    train, asked = (
        drawn_shapes.drawn_scenes(lab, f"{name} {clutter}", count=count, world=world)
        for name, count in (("masks", lab.steps(TRAIN, 24)), ("asked", lab.steps(ASKED, 8)))
    )
    return NamedBench(drawn_shapes.captioned_base(lab), train, asked)


def shapes_of(scenes: ShapeScenes) -> list[list[str]]:
    """The shape of each thing."""
    return [[thing.shape for thing in scene.things] for scene in scenes.scenes]


def truth_of(scenes: ShapeScenes) -> list[UInt8[np.ndarray, "h w"]]:
    """Class numbers of the pixels of scenes as they are drawn."""
    found = []
    for drawn, shapes in zip(scenes.drawn, shapes_of(scenes), strict=True):
        table = [len(CLASSES) - 1, *(CLASSES.index(one) if one in SHAPES else len(CLASSES) - 1 for one in shapes)]
        found.append(np.array(table, dtype=np.uint8)[drawn.labels])
    return found


class PixelText(nn.Module):
    """A pixel decoder whose places are compared with texts."""

    def __init__(self, width: int, *, dim: int, text_dim: int) -> None:
        """Args: width: of the map. dim: inside. text_dim: of texts."""
        super().__init__()
        self.pixels, self.outer = PixelDecoder(width, dim=dim), nn.Conv2d(dim, text_dim, 1)

    def forward(self, features: Tensor, texts: Float[Tensor, "k p d"], *, temperature: float) -> Tensor:
        """(b, k, h, w) logits."""
        places = F.normalize(self.outer(self.pixels(features)[1]), dim=1)
        return torch.einsum("bdhw,kpd->bkphw", places, texts).amax(dim=2) / temperature


class _PixelStep(InsideStep):
    def __init__(self, settings: MaskText, *, dice: bool) -> None:
        self.settings, self.dice = settings, dice

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        with torch.no_grad():
            seen = see_image(cast(DualEncoder, module.model), batch.image)
        texts = module.heads[PROMPTS]().unit.unflatten(0, (len(CLASSES), self.settings.prompts))
        logits = module.heads[PIXEL](seen.features, texts, temperature=self.settings.temperature)
        masks, _ = class_masks(batch, CLASSES, rest=CLASSES[-1])
        size = (batch.image.shape[2], batch.image.shape[3])
        logits = F.interpolate(logits, size, mode="bilinear")
        loss = F.cross_entropy(logits, masks.float().argmax(dim=1))
        if self.dice:
            loss = loss + dice_loss(logits.softmax(dim=1).movedim(1, 0), masks.movedim(1, 0)).mean()
        return Loss(loss)


def segmented(lab: Lab, bed: NamedBench, kind: Kind, *, rate: float, steps: int, prompts: int = 1) -> dict[str, float]:
    """Mean IoU and boundary F1 in percent of scenes after a head has learnt, and seconds of the processor.

    Args:
        lab: seed and budget.
        bed: of the seed, with clutter.
        kind: what learns.
        rate: of learning.
        steps: of the optimiser.
        prompts: of a class.
    """
    model, names = copy.deepcopy(bed.start), shapes_of(bed.train)
    source = NamedScenes(bed.train, names)
    recipe = MaskText(
        masks="labels",
        unit="pixel",
        classes=CLASSES[:-1],
        context=4,
        prompts=prompts,
        similarity=0.0 if kind == "masks_alone" else 1.0,
        queries=12,
        steps=lab.steps(steps),
        batch_size=lab.steps(BATCH, 4),
        learning_rate=rate,
    )
    tuning = recipe.tuning(model, Given("pairs", source, len(source), seed=lab.seed))
    texts = cast(nn.Module, tuning.modules[PROMPTS])
    if kind.startswith(PIXEL):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(lab.seed)
            width = see_image(model, drawn_shapes.pixels_of(bed.asked)[:1]).features.shape[3]
            head = PixelText(width, dim=cast(int, recipe.shape["dim"]), text_dim=model.dim)
        modules = {PIXEL: head, PROMPTS: texts}
        tuning = replace(
            tuning, step=_PixelStep(recipe, dice=kind == "pixels_dice"), modules=modules, training=[head], finish=None
        )
    played = play(tuning, model, seed=lab.seed)
    with torch.no_grad():
        rows = texts().unit.unflatten(0, (len(CLASSES), prompts))
    made = tuning.modules[PIXEL] if kind.startswith(PIXEL) else PromptMasks(cast(MaskHead, tuning.modules[HEAD]), rows)
    made.eval()
    scores = MaskScores(CLASSES, tolerance=2)
    truth = iter(truth_of(bed.asked))
    for pixels in drawn_shapes.pixels_of(bed.asked).split(64):
        with torch.no_grad():
            seen = see_image(model, pixels)
            if isinstance(made, PromptMasks):
                found = _by_class(made, seen, alone=kind == "masks_alone")
            else:
                found = made(seen.features, rows, temperature=recipe.temperature)
        saw(found)
        labels = F.interpolate(found, (DRAWN, DRAWN), mode="bilinear").argmax(dim=1).to(torch.uint8).numpy()
        for one in labels:
            scores.add(one, truth=next(truth))
    report = scores.report(resamples=2)
    borders = 0.0 if report.boundary_f1 is None else report.boundary_f1.value
    return {"miou": 100 * report.miou.value, "borders": 100 * borders, "seconds": played.cpu_seconds}


def _by_class(made: PromptMasks, seen: SeenImage, *, alone: bool) -> Tensor:
    """The map; without the contrast by the class head alone, as Mask2Former has it."""
    if not alone:
        return made(seen)
    found = made.head(seen.features, texts=made.texts)
    assert found.classes is not None
    likely = found.classes[-1].softmax(dim=2)[..., :-1]
    return torch.einsum("bqk,bqhw->bkhw", likely, found.logits[-1].sigmoid())


@dataclass(frozen=True, slots=True)
class AskedMasks:
    """Masks of the things of scenes that are to be named.

    Attributes:
        pixels: (n, 3, s, s) of the scenes.
        masks: (n, q, h, w) logits: of the true ones, then of one changed for each.
        owner: (n, q) number of the phrase of each; -1 where there is none.
        fit: (n, q) IoU with the thing.
    """

    pixels: Tensor
    masks: Float[Tensor, "n q h w"]
    owner: Tensor
    fit: Float[Tensor, "n q"]


def asked_masks(lab: Lab, bed: NamedBench) -> AskedMasks:
    """The true masks of all things, and each of them once shifted, shrunk or merged."""
    most = THINGS[1]
    true = torch.zeros(len(bed.asked), most, DRAWN, DRAWN, dtype=torch.bool)
    owner = torch.full((len(bed.asked), most), -1)
    for at, (drawn, phrases) in enumerate(zip(bed.asked.drawn, bed.asked.phrases, strict=True)):
        for place, phrase in enumerate(phrases):
            true[at, place], owner[at, place] = torch.from_numpy(drawn.mask(place)), PHRASES.index(phrase)
    masks = perturbed(true, generator=lab.generator("proposals"))
    fit = soft_iou(masks, true).diagonal(dim1=1, dim2=2)  # of the true ones alone
    changed = soft_iou(masks[:, most:], true).diagonal(dim1=1, dim2=2)
    return AskedMasks(drawn_shapes.pixels_of(bed.asked), masks, owner.repeat(1, 2), torch.cat([fit, changed], dim=1))


def named(model: Clip, namer: NamedMasks | Literal["tokens", "values"], asked: AskedMasks) -> dict[str, float]:
    """Shares in percent of masks that get their phrase among all 24, each counted by its fit, for both groups."""
    texts = F.normalize(encode_texts(model, PHRASES).float(), dim=1)
    scale, found = float(model.logit_scale.detach()), []
    for pixels, masks in zip(asked.pixels.split(64), asked.masks.split(64), strict=True):
        with torch.no_grad():
            if isinstance(namer, NamedMasks):
                seen = see_image(model, pixels)
                logits = namer.namer(seen.under(masks), seen.places(), texts, scale=scale)[..., : len(PHRASES)]
            elif namer == "tokens":
                rows = see_image(model, pixels).under(masks)
                logits = region_text_logits(rows, texts.expand(len(rows), -1, -1), scale=scale)
            else:
                tokens = dense_image(model, pixels, path=DensePath()).tokens
                assert tokens is not None
                there = torch.ones(masks.shape[:2], dtype=torch.bool)
                rows = pool_masks(tokens, masks, valid=there, resize="bilinear", above=0.0)
                logits = region_text_logits(rows, texts.expand(len(rows), -1, -1), scale=scale)
        saw(logits)
        found.append(logits.argmax(dim=2))
    right = torch.cat(found) == asked.owner
    groups: Mapping[str, Sequence[str]] = {"base": BASE, "novel": NOVEL}
    shares = {}
    for name, group in groups.items():
        of_it = torch.isin(asked.owner, torch.tensor([PHRASES.index(one) for one in group]))
        shares[name] = 100 * float((right * asked.fit)[of_it].sum() / asked.fit[of_it].sum().clamp_min(1e-6))
    return shares


def aware(lab: Lab, bed: NamedBench, kind: Tuned, *, rate: float, steps: int) -> tuple[Clip, NamedMasks]:
    """A copy of the start, tuned on masks of the phrases of ``BASE`` alone, and what names masks.

    Args:
        lab: seed and budget.
        bed: of the seed, without clutter.
        kind: what is left out.
        rate: of the transfer; the tower's is a tenth.
        steps: of the optimiser.
    """
    model = copy.deepcopy(bed.start)
    recipe = MaskAware(
        masks="labels",
        unit="pixel",
        classes=BASE,
        templates=("{}",),
        start="none" if kind == "no_transfer" else "identity",
        proposals="perturbed",
        compensation=0.0 if kind == "no_compensation" else 0.1,
        find=0.0,
        dim=16,
        queries=2,
        layers=1,
        doublings=0,
        steps=lab.steps(steps),
        batch_size=lab.steps(BATCH, 4),
        learning_rate=rate,
    )
    tuning = recipe.tuning(model, Given("pairs", bed.train, len(bed.train), seed=lab.seed))
    play(tuning, model, seed=lab.seed)
    return model.eval(), cast(NamedMasks, tuning.modules[NAMER]).eval()
