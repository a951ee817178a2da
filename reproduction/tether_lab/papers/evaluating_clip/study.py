"""Evaluating CLIP: probes of what a free list of classes does to groups of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.trace import saw

if TYPE_CHECKING:
    from tether.methods.evaluating_clip import HarmRates
    from tether_lab.lab.lab import Lab

IMAGES = 1600
THRESHOLDS = (0.005, 0.04)
"""Those of the paper's label associations."""
TEMPLATE = "picture"
"""Of the second measurement; the first has the classes alone."""
MEASURABLE = 0.001
"""Least amount of what must be above 0."""

CARD = Card.of(
    "evaluating-clip",
    claim=Claim(
        says="The harm rates find a bias that was planted in the captions of one group: its interval lies above the "
        "other group's, by more than on a model taught with even captions.",
        metric="gap between the two groups' 95 % intervals of the harm rate; below 0 unless apart the planted way",
        margin=0.125,
        baseline="the same probe on a model taught with equal rates in both groups",
        scale=f"tiny CLIP of 64 dimensions taught on scenes of 32 px, 0.25 between the groups planted, of which the "
        f"margin is half; {IMAGES} images, about half in each group, groups by background",
        equal="images, captions but for one word, its share of all captions, steps, seed, classes and prompts",
        conditions=(
            Condition(
                says="With uneven captions the intervals do not overlap.",
                ours="uneven_interval_gap",
                than=0.0,
                least=MEASURABLE,
            ),
            Condition(
                says="Nor do they with the classes in another template.",
                ours="uneven_interval_gap_in_template",
                than=0.0,
                least=MEASURABLE,
            ),
            Condition(
                says="With even captions the intervals overlap: neither group's lies above the other's.",
                ours="even_intervals_apart",
                than=0.0,
                better="lower",
            ),
            Condition(
                says="With even captions the planted group's interval does not lie above the other's with the classes "
                "in that template either.",
                ours="even_interval_gap_in_template",
                than=0.0,
                better="lower",
            ),
            Condition(
                says="A better-fitting neutral class takes at least 30 % off the planted group's rate.",
                ours="uneven_relative_fall",
                than=0.0,
                least=0.3,
            ),
            Condition(
                says="It raises the rate of harm of no group: an identity, as a class more can only take images away.",
                ours="uneven_rise_with_better_class",
                than=0.0,
                better="lower",
            ),
            Condition(
                says="From a probability of 4 % fewer labels pass than from 0.5 %.",
                ours="uneven_labels_passed_high",
                than="uneven_labels_passed_low",
                better="lower",
                least=MEASURABLE,
            ),
            Condition(
                says="The planted label differs most between the groups, on every seed.",
                ours="uneven_place_of_planted_label",
                than=1.0,
                better="lower",
            ),
        ),
    ),
    differences=(
        "Planted attributes of synthetic scenes only; nothing about people is reproduced, shipped or inferred.",
        "Intervals are Wilson's; the paper does not say which it used.",
        "They hold what the choice of images adds and leave out that of the training seed: two models taught alike may "
        "differ by more than an interval, which is why five are taught.",
        "p values of label associations are also given adjusted for the number of labels.",
    ),
    tried={
        "The same bed and metric on seeds 0 to 2, without conditions, with a margin of 0.05.": (
            "Gap of the intervals 0.23 with uneven captions and -0.14 with even ones. On two seeds of three "
            "the intervals were apart with even captions too, the other way round; the sentence of the claim had hoped "
            "for an overlap, and was narrowed after the run. Now it is a condition."
        ),
    },
    minutes=1.5,
)


def reproduce(lab: Lab) -> Trial:
    """Probe a model taught with uneven captions and one taught with even ones."""
    from tether_lab.worlds import biased_scenes

    notes: dict[str, float] = {}
    gaps = {}
    for name, faulty in (("uneven", biased_scenes.UNEVEN), ("even", biased_scenes.EVEN)):
        found = probe(lab, faulty=faulty)
        gaps[name] = found["interval_gap"]
        notes |= {f"{name}_{key}": value for key, value in found.items()}
    return Trial(gaps["even"], gaps["uneven"], notes)


def interval_gap(rates: HarmRates) -> float:
    """How far the first group's interval lies above the second's."""
    import math

    from tether_lab.worlds import biased_scenes

    first, second = (rates.of(name, category="faulty") for name in biased_scenes.GROUNDS)
    gap = first.low - second.high
    return gap if math.isfinite(gap) else 0.0


def probe(lab: Lab, *, faulty: tuple[float, float]) -> dict[str, float]:
    """All probes on one model; the groups are the two grounds."""
    import torch
    import torch.nn.functional as F

    from tether.data.sets.scenes.captions import PLACES, TEMPLATES, with_article
    from tether.methods.evaluating_clip import class_design_effect, harm_rates, label_association
    from tether_lab.worlds import biased_scenes

    model = biased_scenes.taught(lab, faulty=faulty)
    images = biased_scenes.draw(lab, "probed", rows=lab.steps(IMAGES, 64))
    image = F.normalize(biased_scenes.images(model, images), dim=1)
    group = [biased_scenes.GROUNDS[ground] for ground in images.ground.tolist()]
    neutral = [with_article(shape) for shape in biased_scenes.SHAPES]
    harmful = [with_article(f"{biased_scenes.FAULTY} {shape}") for shape in biased_scenes.SHAPES]
    better = [f"{thing} {PLACES[biased_scenes.GROUNDS[0]]}" for thing in neutral]
    classes = biased_scenes.sentences(model, neutral + harmful)
    category = ["neutral"] * len(neutral) + ["faulty"] * len(harmful)
    effect = class_design_effect(
        image,
        class_text=classes,
        category=category,
        group=group,
        groups=biased_scenes.GROUNDS,
        add=biased_scenes.sentences(model, better),
        add_category=["neutral"] * len(better),
    )
    first, second = (effect.before.of(name, category="faulty") for name in biased_scenes.GROUNDS)
    after = [effect.after.of(name, category="faulty").rate for name in biased_scenes.GROUNDS]
    framed = [TEMPLATES[TEMPLATE].format(things=thing) for thing in (*neutral, *harmful)]
    in_template = harm_rates(image, class_text=biased_scenes.sentences(model, framed), category=category, group=group)
    labels = [biased_scenes.FAULTY, *biased_scenes.SOFT, *biased_scenes.COLOURS]
    prompts = biased_scenes.sentences(model, [with_article(f"{label} picture") for label in labels])
    scale = float(model.logit_scale.detach())
    tables = [
        label_association(
            image,
            class_text=prompts,
            labels=labels,
            group=group,
            pair=biased_scenes.GROUNDS,
            threshold=limit,
            scale=scale,
        )
        for limit in THRESHOLDS
    ]
    saw(torch.tensor([row.p_adjusted for table in tables for row in table.rows]))
    saw(torch.tensor(float(effect.after.classes)))
    place = [row.label for row in tables[1].strongest(len(labels))].index(biased_scenes.FAULTY)
    gap, gap_in_template = interval_gap(effect.before), interval_gap(in_template)
    return {
        "interval_gap": gap,
        "intervals_apart": max(gap, second.low - first.high, 0.0),
        "interval_gap_in_template": gap_in_template,
        "rate_brick": first.rate,
        "rate_paper": second.rate,
        "difference": first.rate - second.rate,
        "n_least": float(min(first.n, second.n)),
        "rate_brick_with_better_class": after[0],
        "relative_fall": 1 - after[0] / first.rate if first.rate else 0.0,
        "rise_with_better_class": max(0.0, after[0] - first.rate, after[1] - second.rate),
        "labels_passed_low": tables[0].passed,
        "labels_passed_high": tables[1].passed,
        "place_of_planted_label": float(place + 1),
        "chi2_of_planted_label": tables[1].rows[0].chi2,
        "p_adjusted_of_planted_label": tables[1].rows[0].p_adjusted,
        "logit_scale": scale,
        "shape_accuracy": biased_scenes.accuracy(image, weights=classes[: len(neutral)], labels=images.shape),
    }
