"""SPECS: a model fine-tuned so that its score rises with each true detail of a caption and falls with a false one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from tether.core.protocols import Step
    from tether.models.towers.clip import Clip
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.details import DetailScenes

ROWS, HELD_OUT = 4096, 300
BASE_STEPS, TUNE_STEPS, BATCH = 300, 150, 128
LONGER_STEPS = 360
"""Of the contrast alone in the time of ``TUNE_STEPS`` of SPECS, of which one took 2.4 times as long."""
BASE_RATE, TUNE_RATE = 1e-3, 3e-4
ENOUGH, MORE = 0.85, 0.05
"""Negative rate that is enough, or how far above the best of the others."""

CARD = Card.of(
    "specs",
    claim=Claim(
        says="After SPECS fine-tuning a true detail raises a caption's score more often than before it, and than after "
        "contrastive fine-tuning.",
        metric="positive increment rate: share of true details that raise the score",
        margin=0.10,
        baseline="the best, on each seed, of the model before, fine-tuned with the contrast alone (text to image) for "
        "as many steps, and with it for as much time",
        scale=f"tiny CLIP at 32 px, {BASE_STEPS} steps on {ROWS} scenes of one thing with four details, "
        f"{TUNE_STEPS} steps of fine-tuning, {HELD_OUT} held-out scenes; false details are of the same thing, in "
        "training and in the test",
        equal="start, images, captions, batch and learning rate; of the longer contrast time, for SPECS reads four "
        "texts an image",
        conditions=(
            Condition(
                says="A detail of another image lowers the score in at least 85 % of cases, or 5 points more often "
                "than with the best of the others.",
                ours="negative_specs",
                than="negative_asked",
            ),
            Condition(
                says="So does the same detail with another value.",
                ours="negative_same_thing_specs",
                than="negative_same_thing_asked",
            ),
            Condition(
                says="A true detail raises the score 10 points more often than a true detail of another image does: it "
                "is no liking of length.",
                ours="positive_specs",
                than="positive_other_picture_specs",
                least=0.10,
            ),
            Condition(
                says="Kendall's tau between score and number of true details is not below the best of the others.",
                ours="rank_correlation_specs",
                than="rank_correlation_others",
            ),
            Condition(
                says="Recall at 1 of whole captions is kept within 5 points of the contrast's after as many steps.",
                ours="recall_at_1_specs",
                than="recall_at_1_contrast",
                least=-0.05,
            ),
        ),
    ),
    differences=(
        "Captions are cut at punctuation and conjunctions; the release uses an NLTK chunk grammar.",
        "A false piece is never one that the own caption holds too; the release takes any piece of another image.",
        "Contrast and adaptive margin see the rows of all processes; the release looks at one process.",
        "A mask says which captions there are; the release takes scores above 0, and would lose negative cosines.",
        "A margin of 0 is a fixed one; in the release it means adaptive, here None does.",
        "The captions' later clauses say 'it', so that another image's are about the same thing and false; in the "
        "paper's captions they often name things that are not there.",
        "The scenes of training and test are the same on every seed, which decides weights, batches and false details.",
        "A tiny CLIP on synthetic scenes stands in for Long-CLIP on detailed human captions; agreement with people was "
        "not measured.",
    ),
    tried={
        (
            "The mean of the positive and the negative rate, against the contrast alone for as many steps, on "
            "captions whose every clause names its thing, so that false details in training are of other "
            "things; seeds 0 to 2."
        ): (
            "0.90 against 0.64, reproduced with a margin of 0.075. But the same clause with another value "
            "lowered the score in 31 % of cases, 74 % before fine-tuning, and recall at 1 was 0.07 against 0.17. The "
            "sheet's first metric had been left before that run, as liking length wins it."
        ),
    },
    minutes=5.0,
)


def reproduce(lab: Lab) -> Trial:
    """Train a small CLIP on short and long captions, fine-tune it three times, and see which scores follow details."""
    import copy

    from tether.losses import ClipLoss
    from tether.methods.specs.step import SpecsStep
    from tether.models import create
    from tether.training.steps.presets import ContrastiveStep
    from tether_lab.worlds.details import detail_scenes

    train = detail_scenes(lab, split="train", rows=lab.steps(ROWS, 64))
    test = detail_scenes(lab, split="test", rows=lab.steps(HELD_OUT, 16))
    model = create("tiny", seed=lab.seed, context=48)
    model.prune_vocabulary_(model.tokenizer(train.captions))
    base, tune = lab.steps(BASE_STEPS), lab.steps(TUNE_STEPS)
    fit(model, train, lab, step=ContrastiveStep(ClipLoss(), steps=base, seed=0), steps=base, rate=BASE_RATE, short=0.5)
    text_to_image = ClipLoss(directions="text_to_image")
    longer = lab.steps(LONGER_STEPS)
    tuned: dict[str, tuple[Step, int]] = {
        "contrast": (ContrastiveStep(text_to_image, steps=tune, seed=0), tune),
        "contrast_longer": (ContrastiveStep(text_to_image, steps=longer, seed=0), longer),
        "specs": (SpecsStep(text_to_image, steps=tune, seed=lab.seed), tune),
    }
    notes = look(model, test, name="before")
    for name, (step, steps) in tuned.items():
        other = fit(copy.deepcopy(model), train, lab, step=step, steps=steps, rate=TUNE_RATE)
        notes |= look(other, test, name=name)
    best = {
        figure: max(notes[f"{figure}_{name}"] for name in ("before", "contrast", "contrast_longer"))
        for figure in ("positive", "negative", "negative_same_thing", "rank_correlation")
    }
    for figure in ("negative", "negative_same_thing"):
        notes[f"{figure}_asked"] = min(ENOUGH, best[figure] + MORE)
    notes["rank_correlation_others"] = best["rank_correlation"]
    return Trial(baseline=best["positive"], ours=notes["positive_specs"], notes=notes)


def fit(
    model: Clip, scenes: DetailScenes, lab: Lab, *, step: Step, steps: int, rate: float, short: float = 0.0
) -> Clip:
    """Train in place; a share ``short`` of the captions says only what there is, the others all details."""
    import torch

    from tether.core.types import Batch
    from tether_lab.worlds.in_memory import fit_rows

    captions = scenes.captions
    long, brief = model.tokenizer(captions), model.tokenizer([pieces[0] for pieces in scenes.segments])
    brief = torch.nn.functional.pad(brief, (0, long.shape[1] - brief.shape[1]))
    lengths = lab.generator("short captions")

    def batch_of(chosen: Tensor) -> Batch:
        cut = torch.rand(len(chosen), 1, generator=lengths) < short
        words = [captions[row] for row in chosen.tolist()]
        return Batch(scenes.pixels[chosen], torch.where(cut, brief[chosen], long[chosen]), {"texts": words})

    return fit_rows(
        model,
        batch_of,
        rows=len(scenes),
        step=step,
        steps=steps,
        batch_size=min(BATCH, len(scenes)),
        learning_rate=rate,
        generator=lab.generator("batches"),
    )


def look(model: Clip, scenes: DetailScenes, *, name: str) -> dict[str, float]:
    """Rates, rank correlation and recall of one model, under keys that end in its name.

    ``other_picture`` are the same rates against an image of other captions: what the texts give away alone. Wrong
    details keep their words in order, but for ``negative_shuffled``.
    """
    from dataclasses import replace

    import numpy as np
    import torch

    from tether.methods.specs.evaluation import increment_rates
    from tether_lab.worlds.details import growing_scores, rank_correlation
    from tether_lab.worlds.in_memory import mean_recall, unit_pairs

    sim, foreign = growing_scores(model, scenes, wrong=scenes.foreign)
    _, false = growing_scores(model, scenes, wrong=scenes.false)
    rng = np.random.default_rng(len(scenes))
    mixed = [[" ".join(rng.permutation(piece.split())) for piece in pieces] for pieces in scenes.foreign]
    _, shuffled = growing_scores(model, scenes, wrong=mixed)
    mask = torch.ones_like(sim, dtype=torch.bool)
    rates = increment_rates(sim, neg_sim=foreign, mask=mask)
    blind_sim, blind_foreign = growing_scores(
        model, replace(scenes, pixels=scenes.pixels.roll(1, 0)), wrong=scenes.foreign
    )
    blind = increment_rates(blind_sim, neg_sim=blind_foreign, mask=mask)
    return {
        f"both_rates_{name}": (rates.positive + rates.negative) / 2,
        f"positive_{name}": rates.positive,
        f"negative_{name}": rates.negative,
        f"positive_other_picture_{name}": blind.positive,
        f"negative_other_picture_{name}": blind.negative,
        f"negative_same_thing_{name}": increment_rates(sim, neg_sim=false, mask=mask).negative,
        f"negative_shuffled_{name}": increment_rates(sim, neg_sim=shuffled, mask=mask).negative,
        f"rank_correlation_{name}": rank_correlation(model, scenes),
        f"recall_at_1_{name}": mean_recall(*unit_pairs(model, scenes.pixels, scenes.captions)),
        f"logit_scale_{name}": float(model.logit_scale.detach()),
    }
