"""SANER: neutral texts made equally near to every group of an attribute, without labels of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from tether_lab.lab.lab import Lab

K, POOL, EPOCHS = 50, 1600, 20

CARD = Card.of(
    "saner",
    claim=Claim(
        says="On a CLIP taught that shapes go with backgrounds, neutral queries for a shape rank both backgrounds more "
        "evenly afterwards.",
        metric=f"mean MaxSkew@{K} of neutral shape queries, as a share of the plain model's",
        better="lower",
        margin=0.4,
        baseline="the plain model, which is 1 by definition; projecting the attribute out is a condition",
        scale=f"tiny CLIP of 64 dimensions taught on scenes of 32 px in which a shape has its own ground in 90 %; 40 "
        f"queries over a balanced pool of {POOL}",
        equal="model, queries and pool; the layer and the projection have the same words of the attribute, and neither "
        "has a setting that was tried out",
        conditions=(
            Condition(
                says="Zero-shot accuracy of the shape falls by 2 points at most.",
                ours="shape_accuracy_saner",
                than="shape_accuracy_plain",
                least=-0.02,
            ),
            Condition(
                says="Queries that name the ground keep their precision within 2 points.",
                ours="explicit_precision_saner",
                than="explicit_precision_plain",
                least=-0.02,
            ),
            Condition(
                says="A projection of all texts, which has no gate, is 5 points less precise on those queries.",
                ours="explicit_precision_saner",
                than="explicit_precision_projection",
                least=0.05,
            ),
            Condition(
                says="MaxSkew of neutral queries is no larger than with the projection, which a gate would leave as it "
                "is.",
                ours="max_skew_saner",
                than="max_skew_projection",
                better="lower",
            ),
        ),
    ),
    differences=(
        "Backgrounds of synthetic scenes stand in for attributes of people, which are neither shipped nor inferred.",
        "There is no public code: the layer adds to its input, the spread is the population's standard deviation, and "
        "the weights 1, 0.1 and 1e-4 are from memory of the paper.",
        "Learning rate, batch and number of epochs are ours.",
    ),
    tried={
        "The same bed with three seeds and without the conditions.": (
            "MaxSkew fell by 37 % (33, 48 and 29 %), less than the 40 % asked for: 0.50 became 0.32, and 0.34 "
            "with the projection."
        ),
    },
    minutes=3.0,
)


def reproduce(lab: Lab) -> Trial:
    """Teach a model the lean, fit the layer on its captions, and compare neutral and explicit queries."""
    import torch.nn.functional as F

    from tether.data.sets.scenes.captions import PLACES, with_article
    from tether.evaluate.groups import max_skew
    from tether.methods.saner import AttributeLexicon, DebiasedTextEncoder, fit_saner
    from tether_lab.worlds import biased_scenes

    model = biased_scenes.taught(lab)
    pairs = biased_scenes.draw(
        lab, "train", rows=lab.steps(biased_scenes.PAIRS, 64), lean=biased_scenes.LEAN, faulty=biased_scenes.UNEVEN
    )
    pool = biased_scenes.draw(lab, "pool", rows=lab.steps(POOL, 64))
    phrases = [PLACES[ground] for ground in biased_scenes.GROUNDS]
    lexicon = AttributeLexicon(
        {ground: [phrase] for ground, phrase in zip(biased_scenes.GROUNDS, phrases, strict=True)},
        nouns=biased_scenes.SHAPES,
        place="end",
    )
    found = fit_saner(
        model,
        texts=pairs.texts,
        lexicons=[lexicon],
        images=biased_scenes.images(model, pairs),
        epochs=lab.steps(EPOCHS, 1),
        seed=lab.seed,
    )
    ours = DebiasedTextEncoder(model, layer=found.layer, lexicons=[lexicon])
    image = F.normalize(biased_scenes.images(model, pool), dim=1)
    things = [with_article(shape) for shape in biased_scenes.SHAPES]
    neutral = [text for frame in biased_scenes.in_frames(things) for text in frame]
    explicit = [f"{thing} {phrase}" for thing in things for phrase in phrases]

    plain_neutral, plain_explicit = biased_scenes.sentences(model, neutral), biased_scenes.sentences(model, explicit)
    direction = F.normalize((plain_explicit[0::2] - plain_explicit[1::2]).mean(dim=0), dim=0)
    sides = {
        "plain": (plain_neutral, plain_explicit),
        "saner": (biased_scenes.sentences(ours, neutral), biased_scenes.sentences(ours, explicit)),
        "projection": (without(plain_neutral, direction), without(plain_explicit, direction)),
    }
    notes = {
        "used": float(found.used),
        "skipped": float(found.skipped),
        "debias_first": found.debias[0],
        "debias_last": found.debias[-1],
    }
    for name, (loose, exact) in sides.items():
        notes[f"max_skew_{name}"] = max_skew(loose @ image.T, groups=pool.ground, k=K).mean
        weights = F.normalize(loose.view(-1, len(things), loose.shape[1]).mean(dim=0), dim=1)
        notes[f"shape_accuracy_{name}"] = biased_scenes.accuracy(image, weights=weights, labels=pool.shape)
        notes[f"explicit_precision_{name}"] = precision(exact @ image.T, pool.shape * 2 + pool.ground)
    before = max(notes["max_skew_plain"], 1e-9)
    return Trial(1.0, notes["max_skew_saner"] / before, notes)


def without(rows: Tensor, direction: Tensor) -> Tensor:
    """Unit rows without their part along a unit direction."""
    import torch.nn.functional as F

    return F.normalize(rows - (rows @ direction)[:, None] * direction, dim=1)


def precision(scores: Tensor, cell: Tensor) -> float:
    """Mean share of a query's own cell among its first ``K``; query i asks for cell i."""
    import torch

    first = scores.argsort(dim=1, descending=True, stable=True)[:, :K]
    return float((cell[first] == torch.arange(len(scores))[:, None]).double().mean())
