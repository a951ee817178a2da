"""The papers on captions: rewrites, written descriptions and paraphrases of what people wrote about photographs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.types import Batch
from tether.data.captions import CaptionPool, CaptionSampler, MixedCaptions, Rewriter, TemplateRewriter, TextAugment
from tether.data.captions.lexicon import ENGLISH, lexicon
from tether.data.captions.rng import of_key
from tether.losses import ClipLoss
from tether.methods.paraclip import ParaphrasePairs, RuleParaphraser, paraphrase_batches, tune_texts_
from tether.methods.paraclip.ranking_overlap import average_overlap, ranking
from tether.methods.veclip import TemplateFuser, fuse_captions
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_images, encode_texts
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.card import Claim, Condition, Trial

from .frozen import HELD_OUT, Photos, as_images, caption_recall, encoder, learn
from .row import Row

STEPS, BATCH, REWRITES = 300, 64, 4
TUNED, DEPTH = 200, 10
RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates tried for both sides of paraclip, each seed's best by overlap being taken of both."""
WRONG, FILES, BARE = 0.15, 0.225, 0.225
"""Shares of the alt-texts that belong to another photograph, that are file names, and that are a few bare words."""
BED = (
    f"600 photographs of Flickr8k; linear maps over starter's locked towers, {STEPS} steps of {BATCH}; {HELD_OUT} "
    "others with five captions each to find"
)
EQUAL = "first maps, images of every batch, steps, one text an image, learning rate"


def taught(photos: Photos, seed: int, said: Callable[[int], str], texts: Sequence[str]) -> ComposedEncoder:
    """Maps after a run on the photographs to learn from, whose text is asked for at every visit."""
    train, held_out = photos.split(seed)
    asked = [text for row in held_out.tolist() for text in photos.captioned.captions[row]]
    model = encoder(photos, [*texts, *asked], seed=seed)
    image = as_images(photos.captioned.image)

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            for rows in train[torch.randperm(len(train), generator=generator)].split(BATCH):
                if len(rows) == BATCH:
                    yield Batch(image[rows], model.tokenizer([said(row) for row in rows.tolist()]))

    return learn(model, ContrastiveStep(ClipLoss(), steps=STEPS, seed=seed), batches(), steps=STEPS)


def first_captions(photos: Photos) -> list[str]:
    """The caption that stands first, of every photograph; texts are written from it once, whatever the seed."""
    return [some[0] for some in photos.captioned.captions]


def laclip(photos: Photos, seed: int) -> Trial:
    """One caption alone, with augmented texts, with rewrites by rules, and with the four that other people wrote."""
    captions = first_captions(photos)

    def rewritten(rewriter: Rewriter) -> list[list[str]]:
        return [
            list(rewriter.rewrite(text, count=REWRITES, generator=of_key(f"{row} {text}", seed=0, salt="rewrite")))
            for row, text in enumerate(captions)
        ]

    written = {
        "captions": [[]] * len(captions),
        "augmented": rewritten(TextAugment()),
        "rewrites": rewritten(TemplateRewriter()),
        "people": [list(some[1:]) for some in photos.captioned.captions],
    }
    notes: dict[str, float] = {}
    for name, rewrites in written.items():
        pool = CaptionPool(captions, rewrites=rewrites)
        texts = [text for row in range(len(pool)) for text in pool.texts(row)]
        model = taught(photos, seed, CaptionSampler(pool, seed=seed), texts)
        found = caption_recall(model, photos, photos.split(seed)[1])
        notes |= {f"r{k}_{name}": 100 * found[f"text_to_image_r{k}"] for k in (1, 10)}
    return Trial(notes["r1_captions"], notes["r1_rewrites"], notes)


def alt_texts(captions: Sequence[str], draw: np.random.Generator) -> list[str]:
    """Alt-texts as the web has them, made of captions; see ``WRONG``."""
    stops = lexicon(ENGLISH).stopwords
    found = []
    for text in captions:
        kind = draw.random()
        words = [word for word in text.lower().split() if word.isalpha() and word not in stops][:3] or ["photo"]
        if kind < WRONG:
            found.append(str(draw.choice(captions)))
        elif kind < WRONG + FILES:
            found.append(f"{'_'.join(words)}_{draw.integers(1000, 10_000)}.jpg")
        elif kind < WRONG + FILES + BARE:
            found.append(" ".join(words))
        else:
            found.append(text)
    return found


def veclip(photos: Photos, seed: int) -> Trial:
    """Alt-texts alone, alt-texts fused with what another person wrote, and both mixed."""
    alt = alt_texts(first_captions(photos), np.random.default_rng(0))
    visual = [some[1] for some in photos.captioned.captions]
    fuser = TemplateFuser(keep={word.strip(".,") for text in visual for word in text.lower().split()})
    sources = {
        "alt": alt,
        "vecap": [fuse_captions(text, visual=other, fuser=fuser) for text, other in zip(alt, visual, strict=True)],
    }
    notes: dict[str, float] = {}
    for name, share in (("alt", 1.0), ("vecap", 0.0), ("mix", 0.5)):
        pool = MixedCaptions(sources, probs={"alt": share, "vecap": 1 - share})
        model = taught(photos, seed, CaptionSampler(pool, seed=seed), [*sources["alt"], *sources["vecap"]])
        found = caption_recall(model, photos, photos.split(seed)[1])
        notes |= {f"recall_{name}": 100 * found["image_to_text_r1"], f"search_{name}": 100 * found["text_to_image_r1"]}
    return Trial(notes["recall_vecap"], notes["recall_mix"], notes)


def paraclip(photos: Photos, seed: int) -> Trial:
    """Text maps tuned on captions alone and with paraphrases; two people's captions are to rank photographs alike."""
    captions = first_captions(photos)
    train, held_out = photos.split(seed)
    made = ParaphrasePairs(captions, paraphraser=RuleParaphraser(), seed=0)
    learnt = set(train.tolist())
    made.rows = tuple(pair for pair in made.rows if pair.row in learnt)
    texts = [text for pair in made.rows for text in (pair.caption, pair.first, pair.second)]
    start = taught(photos, seed, captions.__getitem__, [*captions, *texts])
    rows = encode_images(start, [as_images(photos.captioned.image)])
    queries = [[photos.captioned.captions[row][place] for row in held_out.tolist()] for place in (0, 1)]
    pool = F.normalize(encode_images(start, [as_images(photos.captioned.image[held_out])]), dim=1)

    def measured(model: ComposedEncoder) -> dict[str, float]:
        ranked = [ranking(F.normalize(encode_texts(model, some), dim=1), pool, k=DEPTH) for some in queries]
        recall = caption_recall(model, photos, held_out)["text_to_image_r1"]
        return {"overlap": float(average_overlap(*ranked, k=DEPTH).mean()), "recall": 100 * recall}

    def tuned(*, rate: float, paraphrased: bool) -> dict[str, float]:
        model = copy.deepcopy(start)
        generator = torch.Generator().manual_seed(seed)
        batches = paraphrase_batches(model, made, image=rows, batch_size=BATCH, generator=generator)
        given = batches if paraphrased else map(captions_alone, batches)
        weights = (1.0, 1.0, 1.0) if paraphrased else (1.0, 0.0, 0.0)
        tune_texts_(model, given, steps=TUNED, weights=weights, learning_rate=rate)
        return measured(model)

    def best(*, paraphrased: bool) -> dict[str, float]:
        return max((tuned(rate=rate, paraphrased=paraphrased) for rate in RATES), key=lambda found: found["overlap"])

    arms = {
        "base": measured(start),
        "captions": best(paraphrased=False),
        "all_terms": best(paraphrased=True),
    }
    notes = {f"{figure}_{name}": value for name, found in arms.items() for figure, value in found.items()}
    return Trial(notes["overlap_captions"], notes["overlap_all_terms"], notes)


def captions_alone(batch: Batch) -> Batch:
    """The same images, their captions in the place of the paraphrases."""
    text: Tensor = batch.text.chunk(3)[0].repeat(3, 1)
    return replace(batch, text=text)


ROWS = (
    Row(
        slug="laclip",
        claim=Claim(
            says="Trained for the same number of steps on one caption a photograph, maps that draw their texts from "
            "captions and rewrites find more photographs by captions that other people wrote.",
            metric="recall at 1 of text to image, five captions of each held-out photograph, percentage points",
            better="higher",
            margin=5.0,
            baseline="the same maps, seed and steps on the captions alone",
            scale=f"{BED}; {REWRITES} rewrites of each caption by rules",
            equal=EQUAL,
            conditions=(
                Condition(
                    says="Rewrites find no fewer than as many texts of simple augmentation, which drops stop words "
                    "and replaces, exchanges or loses words.",
                    ours="r1_rewrites",
                    than="r1_augmented",
                    better="higher",
                ),
            ),
        ),
        differs="margin is the card's; the unseen wordings are other people's; the text tower rests, so that only its "
        "map can learn from a rewrite; a run with the captions of four other people as rewrites stands in the notes",
        measure=laclip,
    ),
    Row(
        slug="veclip",
        claim=Claim(
            says="With equally many steps, maps that draw their texts from alt-texts and fused captions, half and "
            "half, find as many captions by photograph as maps that are trained on the fused captions alone.",
            metric="recall at 1 of image to text, five captions of each held-out photograph, percentage points",
            better="higher",
            margin=3.0,
            baseline="the same maps, seed and steps on the fused captions alone",
            scale=f"{BED}; {100 * (WRONG + FILES + BARE):.0f} % of the alt-texts noisy, made from one person's "
            "caption; another's is the description",
            kind="no_worse",
            equal=EQUAL,
            conditions=(
                Condition(
                    says="The mixture finds 10 points more than the alt-texts alone.",
                    ours="recall_mix",
                    than="recall_alt",
                    better="higher",
                    least=10.0,
                ),
            ),
        ),
        differs="metric, margin and the first condition are the card's; photographs have no names that only alt-texts "
        "know, so that half of the claim is not asked",
        measure=veclip,
    ),
    Row(
        slug="paraclip",
        claim=Claim(
            says="After tuning the text map on captions and two paraphrases of each, the captions of two people rank "
            "the photographs more alike than after as much tuning on the captions alone.",
            metric=f"average overlap of the first {DEPTH} photographs of both queries, from 0 to 1",
            better="higher",
            margin=0.05,
            baseline="the text map tuned on the same photographs and captions without paraphrases",
            scale=f"{BED}; then {TUNED} steps of {BATCH} on the text map",
            equal=f"start, steps, images of every batch, texts encoded, {len(RATES)} learning rates of which each "
            "seed's best is taken",
            conditions=(
                Condition(
                    says="The overlap is 0.05 above that of the maps that the tuning started from.",
                    ours="overlap_all_terms",
                    than="overlap_base",
                    better="higher",
                    least=0.05,
                ),
                Condition(
                    says="Recall at 1 is kept within 3 points of the start's.",
                    ours="recall_all_terms",
                    than="recall_base",
                    better="higher",
                    least=-3.0,
                ),
            ),
        ),
        differs="metric, margin and the first two conditions are the card's; the second query is another person's "
        "caption, not a paraphrase by rules; the best rate is taken of both sides",
        measure=paraclip,
    ),
)
