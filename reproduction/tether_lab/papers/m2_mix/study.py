"""Geodesic multi-modal mixup: hard negatives from the empty region between the modalities close their gap."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from tether.core.protocols import Objective
    from tether.models import Clip
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.pairs import Pairs

STEPS, BATCH, LEARNING_RATE, WEIGHT = 200, 128, 5e-4, 0.01
WARM = 0.05
"""Temperature of the second baseline; the first and ours have 0.01."""
RECALL_KEPT = 0.05
ROWS = 4096

CARD = Card.of(
    "m2-mix",
    claim=Claim(
        says="Fine-tuning with mixed negatives leaves less of a gap than the best of three other losses that keep "
        "recall, by a tenth of what plain fine-tuning leaves.",
        metric="centroid distance of held-out pairs, in units of plain fine-tuning's",
        better="lower",
        margin=0.1,
        baseline="the smallest gap that CLIP's loss at a temperature of 0.01 (plain, 1 by definition) or "
        f"{WARM}, or HCL, leaves while recall at 1 stays within {100 * RECALL_KEPT:.0f} points of plain's",
        scale=f"CLIP of 256 dimensions with a gap, on synthetic scenes of 64 px; {STEPS} steps of {BATCH} pairs",
        equal="start, pairs, steps and learning rate, nothing tuned; ours has the weight of the release's scripts, the "
        "best of three baselines is taken by the figure itself",
        conditions=(
            Condition(
                says="The gap is at most 0.9 of plain fine-tuning's.",
                than=0.9,
                better="lower",
            ),
            Condition(
                says=f"Recall at 1 is kept within {100 * RECALL_KEPT:.0f} points of plain fine-tuning's.",
                ours="recall_m2",
                than="recall_plain",
                least=-RECALL_KEPT,
            ),
            Condition(
                says="Images and texts of a pair are more alike than after plain fine-tuning.",
                ours="paired_cosine_m2",
                than="paired_cosine_plain",
                least=1e-6,
            ),
            Condition(
                says="The start has a gap of 0.3 or more.",
                ours="gap_start",
                than=0.3,
            ),
            Condition(
                says="There, mixed points are nearer to others' images than texts are, by a cosine of 0.05 or more.",
                ours="mixed_negatives_nearer_start",
                than=0.05,
            ),
        ),
    ),
    differences=(
        "A small CLIP on synthetic scenes; the paper fine-tunes ViT-B/32 on Flickr30k.",
        "The scenes of training and test are the same on every seed, which decides weights and batches.",
        "The weights stay throughout; the release's scripts divide them by the epoch (epochs= does so here).",
        "The mixing share has the loss's precision; the release rounds it to half.",
        "Joint uniformity takes both modalities; the release puts the images together with themselves.",
        "HCL looks both ways and its negatives have a floor; the release's function looks from images to texts and has "
        "none.",
        "In an odd batch the middle row is mixed with nothing; the release mixes it with itself and gets NaN.",
    ),
    tried={
        "plain fine-tuning as the only baseline, which was the claim at first": (
            "0.94 of its gap, where 0.9 was asked for; recall at 1 0.300 against 0.306, seeds 0 to 2"
        ),
        "a weight of 0.05, the heaviest that the release's scripts try": (
            "0.68 of plain fine-tuning's gap, recall at 1 0.288 against 0.306, seeds 0 to 2"
        ),
    },
    minutes=5.5,
)


def reproduce(lab: Lab) -> Trial:
    """Fine-tune one gappy start with CLIP's loss, cold and warm, HCL and m2-Mix on the same batches; measure each."""
    from tether.evaluate.geometry import joint_uniformity, relative_alignment
    from tether.methods.m2_mix import M2MixLoss
    from tether.methods.m2_mix.hard_contrastive import HardContrastiveLoss
    from tether.methods.m2_mix.loss import m2_mix_loss
    from tether_lab.worlds import modality_gap_clip
    from tether_lab.worlds.pairs import load_pairs

    pairs = modality_gap_clip.held_out(lab)
    start = modality_gap_clip.gappy_clip(lab)
    seen_before = load_pairs(f"scenes:rows={lab.steps(ROWS, 32)}", size=modality_gap_clip.IMAGE_SIZE)
    variants = {
        "plain": M2MixLoss(m2=0.0),
        "warm": M2MixLoss(m2=0.0, tau1=WARM),
        "hcl": HardContrastiveLoss(),
        "m2": M2MixLoss(m2=WEIGHT),
    }
    models = {"start": start} | {name: tuned(lab, start, loss, pairs=seen_before) for name, loss in variants.items()}
    notes: dict[str, float] = {}
    for name, model in models.items():
        image, text = modality_gap_clip.unit_embeddings(model, pairs)
        seen = modality_gap_clip.look(model, pairs)
        notes[f"gap_{name}"] = seen.centroid_distance
        notes[f"paired_cosine_{name}"] = seen.paired_cosine
        notes[f"recall_{name}"] = seen.recall
        notes[f"relative_alignment_{name}"] = float(relative_alignment(image, text))
        notes[f"uniformity_{name}"] = float(joint_uniformity(image, text))
        halves = (0.5, 0.5, 0.5, 0.5)
        notes[f"mixed_negatives_nearer_{name}"] = float(m2_mix_loss(image, text, lam=halves, m2=1.0).margin)
    others = {name: notes[f"gap_{name}"] for name in variants if name != "m2"}
    least = notes["recall_plain"] - RECALL_KEPT
    best = min(gap for name, gap in others.items() if notes[f"recall_{name}"] >= least)
    return Trial(baseline=best / notes["gap_plain"], ours=notes["gap_m2"] / notes["gap_plain"], notes=notes)


def tuned(lab: Lab, start: Clip, objective: Objective, *, pairs: Pairs) -> Clip:
    """A copy of the start after a stage on the pairs it was trained on; its logit scale stays."""
    from tether.training.steps.presets import ContrastiveStep
    from tether_lab.worlds.in_memory import fit_batches, shuffled

    model, steps = copy.deepcopy(start), lab.steps(STEPS)
    tokens = model.tokenizer([texts[0] for texts in pairs.texts])
    model.prune_vocabulary_(tokens)
    model.freeze_logit_scale_()
    fit_batches(
        model,
        ContrastiveStep(objective, steps=steps, seed=lab.seed),
        shuffled(pairs.pixels, tokens, size=BATCH, generator=lab.generator("batches")),
        steps=steps,
        warmup=0,
        learning_rate=LEARNING_RATE,
        weight_decay=0.2,
    )
    model.restore_vocabulary_()
    return model
