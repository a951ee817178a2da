"""CLIP-Refine: a short stage that draws images and texts together and keeps what the model knew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tether.core.types import Batch
    from tether.methods.clip_refine import ClipRefineLoss
    from tether.models import Clip
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.pairs import Pairs

STEPS, BATCH = 200, 64
RATES = (1e-4, 5e-4)
"""Learning rates; each stage counts with the one that leaves the smaller gap among those that keep recall."""
RECALL_KEPT = 0.02
"""How far recall may fall below the start's."""
LONGER = 300
"""Steps of CLIP's loss that take the processor time of ``STEPS`` with the old model beside them."""
ROWS = 4096

CARD = Card.of(
    "clip-refine",
    claim=Claim(
        says="After a short stage on pairs the centres of images and texts lie closer together than after as many "
        "steps of CLIP's own loss, each at the better of two learning rates, and recall is kept.",
        metric="distance between the mean unit image and the mean unit text on held-out pairs, from 0 to 2",
        better="lower",
        margin=0.1,
        baseline="the same start trained further with CLIP's loss, at the one of two learning rates that leaves the "
        "smaller gap and keeps recall",
        scale=f"a small CLIP of 256 dimensions that has a gap, {ROWS} synthetic scenes, {STEPS} steps of {BATCH}; "
        "200 held-out pairs",
        equal=f"start, pairs, steps, logit scale, and two learning rates ({RATES[0]:g} and {RATES[1]:g}), of which "
        f"each has the one with the smaller gap whose recall is at most {100 * RECALL_KEPT:.0f} points below the "
        "start's; the temperature of the distillation follows a rule, chosen in a trial of three",
        conditions=(
            Condition(
                says="The gap is at most 0.9 of the start's.",
                ours="gap_share",
                than=0.9,
                better="lower",
            ),
            Condition(
                says=f"Recall at 1 is kept within {100 * RECALL_KEPT:.0f} points of the start's.",
                ours="recall_refine",
                than="recall_start",
                least=-RECALL_KEPT,
            ),
            Condition(
                says="Recall at 1 is 10 points above what the random features alone leave at that learning rate.",
                ours="recall_refine",
                than="recall_random_only",
                least=0.1,
            ),
            Condition(
                says=f"The gap is no larger than after {LONGER} steps of CLIP's loss, which take as much processor "
                "time, at the rate chosen in the same way.",
                ours="gap_refine",
                than="gap_contrastive_longer",
                better="lower",
            ),
        ),
    ),
    differences=(
        "A small under-trained CLIP and synthetic scenes stand in for OpenAI's models and COCO, with learning "
        "rates a hundred times as high and more.",
        "The temperature is set so that raw inner products are about cosines times the model's own scale, as they are "
        "at temperature 1 for OpenAI's models.",
        "One pair may come alone, and the two sides may have random vectors of their own; both fail in the release.",
        "The stage stops when the embeddings have lost half of their length (switched off in the check).",
        "Only matrices decay, the model is in eval mode, and one process draws what all need.",
    ),
    tried={
        (
            "A toy of 256 dimensions with an under-fitted start, 200 steps at the same rate, distillation on "
            "unit embeddings, two seeds, measured before this check was written."
        ): (
            "The gap was 0.98 and 1.07 at the start, 0.85 and 0.91 after the method, 0.43 and 0.40 after "
            "CLIP's loss alone, which closed more of it there."
        ),
        (
            "the start itself as the baseline, at the one learning rate of 0.0001, with a margin of 0.1: the claim "
            "at first"
        ): "a gap of 0.830 against 0.985, an improvement of 0.154: reproduced, seeds 0 to 2",
        (
            "as many steps of CLIP's loss at that one rate as the baseline, with a margin of 0.05 that was set "
            "when those figures were known"
        ): (
            "improvements of 0.098, 0.077 and 0.080 on seeds 0 to 2, at a recall of 0.172 against 0.214; never "
            "measured as a claim, for the rate suited CLIP's loss less: 200 steps of 128 at 0.0005 left 0.802, 0.861 "
            "and 0.817 at recalls of 0.312, 0.305 and 0.300 (m2-mix)"
        ),
    },
    minutes=6.0,
)


def reproduce(lab: Lab) -> Trial:
    """The start, then short stages from it: the method, its random features alone, and CLIP's loss, once for longer."""
    from tether.methods.clip_refine import ClipRefineLoss
    from tether_lab.worlds import modality_gap_clip
    from tether_lab.worlds.pairs import load_pairs

    pairs = load_pairs(f"scenes:size=64,rows={lab.steps(ROWS, 64)}", size=modality_gap_clip.IMAGE_SIZE)
    held_out = modality_gap_clip.held_out(lab)
    start = modality_gap_clip.gappy_clip(lab)
    before = modality_gap_clip.look(start, held_out)
    notes = {"gap_start": before.centroid_distance, "recall_start": before.recall}
    contrastive = ClipRefineLoss(lambda_rand=0.0, lambda_kd=0.0, lambda_cont=1.0, feature_scale="normalised")
    refine = ClipRefineLoss(temperature=temperature(start, pairs, scale=float(start.logit_scale.detach())))
    stages = {
        "refine": (refine, STEPS),
        "contrastive": (contrastive, STEPS),
        "contrastive_longer": (contrastive, LONGER),
    }
    chosen = {}
    for name, (loss, steps) in stages.items():
        found = {rate: stage(lab, pairs, loss=loss, steps=steps, learning_rate=rate) for rate in RATES}
        for rate, seen in found.items():
            notes |= {f"{figure}_{name}_{rate:g}": value for figure, value in seen.items()}
        chosen[name] = best_rate(found, least_recall=before.recall - RECALL_KEPT)
        notes |= {f"{figure}_{name}": value for figure, value in found[chosen[name]].items()}
    seen = stage(lab, pairs, loss=ClipRefineLoss(lambda_kd=0.0), steps=STEPS, learning_rate=chosen["refine"])
    notes |= {f"{figure}_random_only": value for figure, value in seen.items()}
    notes |= modality_gap_clip.centred(lab, start, held_out)
    notes["gap_share"] = notes["gap_refine"] / notes["gap_start"]
    return Trial(notes["gap_contrastive"], notes["gap_refine"], notes)


def stage(lab: Lab, pairs: Pairs, *, loss: ClipRefineLoss, steps: int, learning_rate: float) -> dict[str, float]:
    """Gap, recall and the share of the embeddings' length that is kept, after a stage from the start."""
    from tether.methods.clip_refine import refine_
    from tether_lab.worlds import modality_gap_clip

    model = modality_gap_clip.gappy_clip(lab)
    model.freeze_logit_scale_()
    loss.generator = lab.generator("z")  # the same random vectors in every stage
    done = refine_(
        model,
        batches(lab, model, pairs),
        loss=loss,
        steps=lab.steps(steps),
        learning_rate=learning_rate,
        least_length=0.0,
    )
    after = modality_gap_clip.look(model, modality_gap_clip.held_out(lab))
    return {
        "gap": after.centroid_distance,
        "recall": after.recall,
        "length_kept": done.last_length / done.first_length,
    }


def best_rate(found: dict[float, dict[str, float]], *, least_recall: float) -> float:
    """The learning rate with the smallest gap among those that keep recall; with the highest recall if none does."""
    keeping = [rate for rate, seen in found.items() if seen["recall"] >= least_recall]
    if not keeping:
        return max(found, key=lambda rate: found[rate]["recall"])
    return min(keeping, key=lambda rate: found[rate]["gap"])


def temperature(model: Clip, pairs: Pairs, *, scale: float) -> float:
    """At which the softmax of raw products is about that of the cosines times the model's own scale."""
    from tether.models.embed import encode_images, encode_texts

    image = encode_images(model, [pairs.pixels[:BATCH]])
    text = encode_texts(model, [texts[0] for texts in pairs.texts[:BATCH]])
    return float(image.norm(dim=1).mean() * text.norm(dim=1).mean()) / scale


def batches(lab: Lab, model: Clip, pairs: Pairs) -> Iterator[Batch]:
    """Batches in random order without end; the same for every stage of a seed."""
    import torch

    from tether.core.types import Batch

    tokens = model.tokenizer([texts[0] for texts in pairs.texts])
    model.prune_vocabulary_(tokens)
    generator = lab.generator("order")
    while True:
        for rows in torch.randperm(len(pairs), generator=generator).split(BATCH):
            yield Batch(pairs.pixels[rows], tokens[rows])
