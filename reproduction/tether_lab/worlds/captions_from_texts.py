"""Captioners that learnt from texts alone write of images: with noise, without, with the gap's mean taken off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tether.evaluate.captions import cider, repeated_bigrams
from tether.evaluate.geometry import modality_gap
from tether.models.encoders.causal_lm import small_causal_lm
from tether.models.towers.clip import Clip
from tether.tasks.caption import Captioned, ImageRows, NearestCaptions, PrefixAdaptor, TextOnlyCaptioner, read_images
from tether_lab.lab.lab import Lab
from tether_lab.worlds.captioned_scenes import REFERENCES, ReferencedScenes, caption_clip, scenes
from tether_lab.worlds.in_memory import unit_texts

TEXTS, IMAGES = 4_000, 400
STEPS, BATCH, RATE, WIDTH, LAYERS, QUERIES, INNER, DROPOUT = 900, 64, 2e-3, 64, 1, 4, 256, 0.0
COPIES, REGIONS = 10, 10
LONGEST = 18
"""Tokens of a caption, of which each word is one."""


@dataclass(frozen=True, slots=True)
class TextOnlyBench:
    """What all arms of a seed share.

    Attributes:
        model: the CLIP.
        texts: captions of scenes of which no image is shown.
        test: images to write of.
        seen: their embeddings and regions.
        keys: of the images.
    """

    model: Clip
    texts: list[str]
    test: ReferencedScenes
    seen: ImageRows
    keys: list[str]


def prepare(lab: Lab) -> TextOnlyBench:
    """The CLIP, sentences and images of a seed."""
    model = caption_clip(lab)
    texts = scenes("texts", seed=lab.seed, count=lab.steps(TEXTS, 32)).texts
    test = scenes("test", seed=lab.seed, count=lab.steps(IMAGES, 8), captions=REFERENCES)
    seen = read_images(model, test.pixels, k=REGIONS)
    return TextOnlyBench(model, texts, test, seen, [f"test {row}" for row in range(len(test.texts))])


def learnt(lab: Lab, bed: TextOnlyBench, *, energy: float, rate: float = RATE) -> TextOnlyCaptioner:
    """A captioner of the same first weights and order of texts; the noise of a unit row has this squared length."""
    words = small_causal_lm(bed.texts, width=WIDTH, layers=LAYERS, seed=lab.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lab.seed)
        adaptor = PrefixAdaptor(bed.model.dim, lm_dim=WIDTH, n_queries=QUERIES, inner=INNER, dropout=DROPOUT)
    made = TextOnlyCaptioner(bed.model, words, adaptor=adaptor, copies=COPIES, variance=energy / bed.model.dim)
    return made.fit(
        bed.texts,
        steps=lab.steps(STEPS),
        batch_size=BATCH,
        learning_rate=rate,
        longest=LONGEST,
        seed=lab.seed,
    )


def written(lab: Lab, bed: TextOnlyBench, made: TextOnlyCaptioner, **writing: Any) -> list[Captioned]:
    """A caption of each image, the surest words each time; ``regions=0`` tells the image alone."""
    told = bed.seen if writing.pop("regions", REGIONS) else ImageRows(bed.seen.image)
    return made.generate(told, keys=bed.keys, seed=lab.seed, how="greedy", longest=LONGEST, **writing)


def nearest(bed: TextOnlyBench) -> list[str]:
    """The nearest of the sentences that the captioners learn from."""
    return [one.caption for one in NearestCaptions(bed.model, bed.texts)(bed.seen.image)]


def figures(name: str, captions: list[str], bed: TextOnlyBench) -> dict[str, float]:
    """Of an arm; shares in percent, CIDEr times 100 as it is often given."""
    test = bed.test
    two = [row for row, things in enumerate(test.pairs) if len(things) > 1]
    some = ReferencedScenes(
        test.pixels[two],
        tuple(test.captions[row] for row in two),
        tuple(test.true[row] for row in two),
        tuple(test.pairs[row] for row in two),
    )
    return {
        f"recall_{name}": test.recall(captions),
        f"recall_two_{name}": some.recall([captions[row] for row in two]),
        f"precision_{name}": test.precision(captions),
        f"things_{name}": test.whole(captions),
        f"cider_{name}": 100 * cider(captions, test.captions).mean,
        f"repeated_{name}": 100 * repeated_bigrams(captions),
    }


def gap(bed: TextOnlyBench) -> float:
    """Distance between the mean unit rows of images and of their captions."""
    return float(modality_gap(bed.seen.image, unit_texts(bed.model, bed.test.texts)))
