"""The papers on the gap between images and texts, on maps that CLIP's loss taught at a fixed temperature."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.types import Batch
from tether.evaluate.geometry import alignment, linear_separability, modality_gap
from tether.losses import ClipLoss
from tether.methods.clip_refine import ClipRefineLoss, refine_
from tether.methods.contrastive_gap import ContrastiveGapLoss
from tether.methods.double_ellipsoid import shell_stats
from tether.methods.m2_mix import M2MixLoss
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_images, encode_texts
from tether.space import ConformityEstimator, conformity
from tether.space.conformity import pearson
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.card import Claim, Condition, Trial

from .frozen import Photos, as_images, encoder, learn
from .row import Row

SCALE, BATCH, STEPS, LEARNING_RATE = 100.0, 16, 800, 5e-4
REFINED, REFINE_BATCH, REFINE_RATE, LONGER = 200, 64, 1e-4, 300
MIXED, MIX_BATCH = 200, 128
BED = (
    f"600 photographs of Flickr8k with a caption each; linear maps into 256 dimensions over starter's locked towers, "
    f"temperature {1 / SCALE:g}, {STEPS} steps of {BATCH}; 200 held out"
)
RECALL = "Recall at 1 is kept within {} points of {}."


def pairs(photos: Photos, rows: Tensor, seed: int) -> tuple[Tensor, list[str]]:
    """Images of some photographs and one caption of each, which the seed draws."""
    draw = np.random.default_rng([seed, 0])
    texts = [str(draw.choice(photos.captioned.captions[row])) for row in rows.tolist()]
    return as_images(photos.captioned.image[rows]), texts


def batches(model: ComposedEncoder, image: Tensor, texts: list[str], *, size: int, seed: int) -> Iterator[Batch]:
    """Batches in random order without end; equal seeds give equal ones."""
    ids, generator = model.tokenizer(texts), torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(texts), generator=generator).split(size):
            if len(rows) == size:
                yield Batch(image[rows], ids[rows])


@functools.lru_cache(maxsize=8)
def gappy(photos: Photos, seed: int, objective: Any = ClipLoss) -> ComposedEncoder:
    """Maps taught from the weights of a seed; whoever changes them takes a copy."""
    train, held_out = photos.split(seed)
    image, texts = pairs(photos, train, seed)
    model = encoder(photos, [*texts, *pairs(photos, held_out, seed)[1]], seed=seed, dim=256, scale=SCALE)
    step = ContrastiveStep(objective(), steps=STEPS, seed=seed)
    given = batches(model, image, texts, size=BATCH, seed=seed)
    return learn(model, step, given, steps=STEPS, learning_rate=LEARNING_RATE)


def raw(model: ComposedEncoder, photos: Photos, rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings of photographs and of their captions, not normalised."""
    image, texts = pairs(photos, rows, seed)
    return encode_images(model, [image]), encode_texts(model, texts)


def look(model: ComposedEncoder, photos: Photos, seed: int, name: str) -> dict[str, float]:
    """Gap, recall at 1 and likeness of held-out pairs, under keys that end in a name."""
    from tether_lab.worlds.in_memory import mean_recall

    image, text = (F.normalize(rows, dim=1) for rows in raw(model, photos, photos.split(seed)[1], seed))
    return {
        f"gap_{name}": float(modality_gap(image, text)),
        f"recall_{name}": mean_recall(image, text),
        f"paired_cosine_{name}": 1 - float(alignment(image, text)) / 2,
        f"separability_{name}": linear_separability(image, text, seed=seed),
    }


def contrastive_gap(photos: Photos, seed: int) -> Trial:
    """CLIP's loss and the paper's from the same weights on the same batches."""
    notes = look(gappy(photos, seed), photos, seed, "clip")
    notes |= look(gappy(photos, seed, ContrastiveGapLoss), photos, seed, "cua")
    return Trial(1.0, notes["gap_cua"] / notes["gap_clip"], notes)


def m2_mix(photos: Photos, seed: int) -> Trial:
    """The gappy maps trained further, with mixed negatives and without."""
    start = gappy(photos, seed)
    image, texts = pairs(photos, photos.split(seed)[0], seed)
    notes = look(start, photos, seed, "start")
    for name, objective in (("plain", ClipLoss()), ("m2", M2MixLoss(m2=0.01))):
        model = copy.deepcopy(start)
        given = batches(model, image, texts, size=MIX_BATCH, seed=seed)
        learn(
            model, ContrastiveStep(objective, steps=MIXED, seed=seed), given, steps=MIXED, learning_rate=LEARNING_RATE
        )
        notes |= look(model, photos, seed, name)
    return Trial(1.0, notes["gap_m2"] / notes["gap_plain"], notes)


def clip_refine(photos: Photos, seed: int) -> Trial:
    """Short stages from the gappy maps: the method, its random features alone, and CLIP's loss, once for longer."""
    start = gappy(photos, seed)
    train = photos.split(seed)[0]
    image, texts = pairs(photos, train, seed)
    notes = look(start, photos, seed, "start")
    lengths = [float(rows.norm(dim=1).mean()) for rows in raw(start, photos, train[:REFINE_BATCH], seed)]
    draws = torch.Generator().manual_seed(seed)
    plain = ClipRefineLoss(lambda_rand=0.0, lambda_kd=0.0, lambda_cont=1.0, feature_scale="normalised", generator=draws)
    stages = {
        "refine": (ClipRefineLoss(temperature=lengths[0] * lengths[1] / SCALE, generator=draws), REFINED),
        "random_only": (ClipRefineLoss(lambda_kd=0.0, generator=draws), REFINED),
        "contrastive": (plain, REFINED),
        "contrastive_longer": (plain, LONGER),
    }
    for name, (loss, steps) in stages.items():
        model = copy.deepcopy(start)
        given = batches(model, image, texts, size=REFINE_BATCH, seed=seed)
        refine_(model, given, loss=loss, steps=steps, learning_rate=REFINE_RATE, least_length=0.0)
        notes |= look(model, photos, seed, name)
    notes["gap_share"] = notes["gap_refine"] / notes["gap_start"]
    return Trial(notes["gap_contrastive"], notes["gap_refine"], notes)


def double_ellipsoid(photos: Photos, seed: int) -> Trial:
    """A mean of the photographs that were learnt from tells how common held-out ones are, or their length does."""
    model = gappy(photos, seed)
    train, held_out = photos.split(seed)
    references, scored = (raw(model, photos, rows, seed) for rows in (train, held_out))
    notes: dict[str, float] = {}
    text = photos.captioned.text[:, 0]
    sides = {
        "image": (references[0], scored[0]),
        "text": (references[1], scored[1]),
        "image_tower": (photos.captioned.image[train], photos.captioned.image[held_out]),
        "text_tower": (text[train], text[held_out]),
    }
    for name, rows in sides.items():
        reference, new = (one.detach().double().numpy() for one in rows)
        notes[f"{name}_cosine"] = abs(ConformityEstimator().fit(reference).score(new))
        notes[f"{name}_length"] = abs(pearson(np.linalg.norm(new, axis=1), conformity(new)))
        notes[f"{name}_relative_offset"] = shell_stats(new).relative_offset
    lengths = max(notes["image_length"], notes["text_length"])
    return Trial(lengths, min(notes["image_cosine"], notes["text_cosine"]), notes)


ROWS = (
    Row(
        slug="contrastive-gap",
        claim=Claim(
            says="From the same first maps, at a fixed temperature of 0.01, with small batches in a wide space, "
            "alignment and uniformity leave at most half of the gap that plain CLIP leaves.",
            metric="centroid distance of held-out pairs, in units of plain CLIP's",
            better="lower",
            margin=0.5,
            baseline="CLIP's loss, which is 1 by definition",
            scale=BED,
            equal="first maps, pairs, steps, learning rate, temperature",
            conditions=(
                Condition(
                    says=RECALL.format(3, "plain CLIP's"),
                    ours="recall_cua",
                    than="recall_clip",
                    better="higher",
                    least=-0.03,
                ),
                Condition(
                    says="A plane tells images and texts apart less well than with plain CLIP.",
                    ours="separability_cua",
                    than="separability_clip",
                    better="lower",
                ),
            ),
        ),
        differs="metric, margin and conditions are the card's; maps learn instead of towers",
        measure=contrastive_gap,
    ),
    Row(
        slug="m2-mix",
        claim=Claim(
            says="Fine-tuning with mixed negatives leaves at most 0.9 of the gap that the same fine-tuning leaves "
            "without.",
            metric="centroid distance of held-out pairs, in units of plain fine-tuning's",
            better="lower",
            margin=0.1,
            baseline="the same steps with CLIP's loss alone, which is 1 by definition",
            scale=f"{BED}; then {MIXED} steps of {MIX_BATCH}",
            equal="start, pairs, steps, learning rate, temperature",
            conditions=(
                Condition(
                    says=RECALL.format(2, "plain fine-tuning's"),
                    ours="recall_m2",
                    than="recall_plain",
                    better="higher",
                    least=-0.02,
                ),
            ),
        ),
        differs="metric and margin are the card's; maps learn instead of towers; recall is asked besides; "
        "the baseline is plain fine-tuning alone, without the warmer temperature and HCL of the card",
        measure=m2_mix,
    ),
    Row(
        slug="clip-refine",
        claim=Claim(
            says="After a short stage on pairs the centres of images and texts lie closer together than after as many "
            "steps of CLIP's own loss, and recall is kept.",
            metric="distance between the mean unit image and the mean unit text on held-out pairs, from 0 to 2",
            better="lower",
            margin=0.05,
            baseline="the same start trained further with CLIP's loss",
            scale=f"{BED}; then {REFINED} steps of {REFINE_BATCH} at {REFINE_RATE:g}",
            equal="start, pairs, steps, learning rate, logit scale",
            conditions=(
                Condition(
                    says="The gap is at most 0.9 of the start's.",
                    ours="gap_share",
                    than=0.9,
                    better="lower",
                ),
                Condition(
                    says=RECALL.format(2, "the start's"),
                    ours="recall_refine",
                    than="recall_start",
                    better="higher",
                    least=-0.02,
                ),
                Condition(
                    says=f"The gap is no larger than after {LONGER} steps of CLIP's loss, which take as much processor "
                    "time.",
                    ours="gap_refine",
                    than="gap_contrastive_longer",
                    better="lower",
                ),
            ),
        ),
        differs="metric, margin and conditions are the card's, less that on random features alone; maps learn instead "
        "of towers",
        measure=clip_refine,
    ),
    Row(
        slug="double-ellipsoid",
        claim=Claim(
            says="Where embeddings lie off centre, the cosine to a mean fitted on other rows tells how common a row "
            "is, far better than its length does.",
            metric="absolute Pearson correlation with the exact conformity of held-out rows, in the modality where it "
            "is lower",
            better="higher",
            margin=0.2,
            baseline="the embedding's length, in the modality where it works better",
            scale=f"{BED}; the mean is that of the 600",
            equal="embeddings and rows that are scored; the length needs no other rows",
        ),
        differs="metric and margin are the card's; maps learnt instead of towers; "
        "the baseline is the length alone, without the distance to the mean of the card",
        measure=double_ellipsoid,
    ),
)
