"""QualiCLIP: an image side learns from degraded images alone which photo is better."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CARD = Card.of(
    "qualiclip",
    claim=Claim(
        says="Trained on degraded drawings, the score of opposite prompts falls with the level of degradation of "
        "drawings that were held out, more surely than before training, than a measure of sharpness and than ridge "
        "regression on the embeddings of degraded drawings.",
        metric="Spearman's correlation of score and level of each drawing, the mean over drawings and five kinds of "
        "degradation that were learnt from",
        better="lower",
        margin=0.2,
        baseline="the lowest, in that seed, of the same CLIP's prompts before training, of the variance of the "
        "Laplacian, and of ridge regression of the level on the CLIP's embeddings of 400 degraded drawings",
        scale="a tiny CLIP at 48 px, 1,000 steps of 64 on 6,000 captioned scenes and 2,000 close-ups, then 300 on "
        "3,000 of which a third are called good and a third, degraded, bad; 1,000 other scenes to degrade, 1,500 "
        "steps of 8, five levels of Gaussian blur, noise, JPEG, darkening and squeezed contrast; 60 scenes held out",
        equal="the CLIP and the drawings that are asked about; nonsense prompts and regression of a tuned tower have "
        "the same crops, steps and rate; ridge regression has the kinds and levels, on frozen embeddings",
        conditions=(
            Condition(
                says="On the kinds learnt from it is -0.8 or lower.",
                than=-0.8,
                better="lower",
            ),
            Condition(
                says="On a kind that was not learnt from, a lens out of focus, it is -0.5 or lower.",
                ours="unseen",
                than=-0.5,
                better="lower",
            ),
            Condition(
                says="On the kinds learnt from it is 0.2 lower than before training.",
                than="prompts",
                better="lower",
                least=0.2,
            ),
            Condition(
                says="On the kinds learnt from it is 0.2 lower than that of sharpness.",
                than="sharpness",
                better="lower",
                least=0.2,
            ),
            Condition(
                says="On the kinds learnt from it is 0.2 lower than that of ridge regression.",
                than="ridge",
                better="lower",
                least=0.2,
            ),
            Condition(
                says="On the kinds learnt from it is lower than after as long a training with prompts that have "
                "nothing to do with quality.",
                than="nonsense",
                better="lower",
            ),
            Condition(
                says="On the kinds learnt from it is at most 0.05 above that of a tower that was tuned as long to give "
                "the level by a linear map.",
                than="regression",
                better="lower",
                least=-0.05,
            ),
            Condition(
                says="On the kind that was not learnt from it is at most 0.05 above that of the tuned regression.",
                ours="unseen",
                than="regression_unseen",
                better="lower",
                least=-0.05,
            ),
            Condition(
                says="On the kind that was not learnt from it is 0.2 lower than before training.",
                ours="unseen",
                than="prompts_unseen",
                better="lower",
                least=0.2,
            ),
            Condition(
                says="On the kind that was not learnt from it is at most 0.1 above that of sharpness.",
                ours="unseen",
                than="sharpness_unseen",
                better="lower",
                least=-0.1,
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and drawn scenes stand in for CLIP's ResNet-50 and photos, and levels of degradation for what "
        "people think of photos.",
        "The code of training is not public: rate, batch and steps, the mean over pairs, all pairs of levels and equal "
        "weights are our reading.",
        "All seven pairs of prompts are trained by their mean cosine.",
        "Cosines of this CLIP spread by 0.3, not 0.02: levels are held 0.02 apart, and two crops of a level may "
        "differ by 0.05, which is two and a half levels.",
        "Web captions speak of quality now and then; here 2,000 of 11,000 do, of levels 3 to 5 of the five kinds, so "
        "that the prompts mean something before the image side learns the order of levels.",
        "Five kinds of degradation are learnt in place of 24; pixelation is left out, as its levels are in no order "
        "on drawings of this size.",
    ),
    minutes=30.0,
    tried={
        (
            "a CLIP whose captions say nothing of quality, so that 17 of the prompts' 20 tokens had never been "
            "trained; 1,500 steps; baselines that do not learn; five seeds"
        ): (
            "-0.78 on the kinds learnt from, -0.02 by the prompts before training, -0.37 by sharpness, -0.92 "
            "on the kind that was not; in part, but by prompts that meant nothing. Ridge regression on the "
            "embeddings of 160 degraded drawings had -0.45 on seed 10"
        ),
        (
            "on that bed, seeds 10 and 11 but not all on both: a dozen settings of rate, steps and margins, among "
            "them the paper's margins of 0.0675 and 0.0025 with 400 to 1,000 steps"
        ): (
            "the paper's margins -0.2 to -0.6; the others were not kept one by one. Rate, steps and "
            "margins are still those chosen there; regression has the same rate and steps and was not tuned"
        ),
        "this bed with fewer crops, to save time, seed 10: 700 steps of 8, and 1,500 of 4": (
            "700 steps of 8: -0.55, ridge regression -0.59, sharpness -0.32, prompts before training -0.12; "
            "1,500 of 4: -0.56, the tuned regression -0.77. The 1,500 steps of 8 of the "
            "first bed were therefore kept"
        ),
        "a small convolutional network in place of the vision transformer, same bed": "it learnt blur, but not noise",
    },
)


def reproduce(lab: Lab) -> Trial:
    """One seed: a CLIP before and after, and simpler ways, on kinds that were learnt from and on others."""
    from tether_lab.worlds import degraded_scenes

    bed = degraded_scenes.prepare(lab)
    ways = {
        "prompts": degraded_scenes.by_prompts(bed),
        "sharpness": degraded_scenes.by_sharpness,
        "ridge": degraded_scenes.by_ridge(lab, bed),
        "nonsense": degraded_scenes.by_training(lab, bed, prompts=degraded_scenes.NONSENSE),
        "regression": degraded_scenes.by_regression(lab, bed),
        "trained": degraded_scenes.by_training(lab, bed),
    }
    seen: dict[str, float] = {}
    notes: dict[str, float] = {}
    for way, score in ways.items():
        kinds = {kind: degraded_scenes.correlation(score, bed, kind=kind) for kind in degraded_scenes.SEEN}
        seen[way] = sum(kinds.values()) / len(kinds)
        notes |= {f"{way}_{kind}": value for kind, value in kinds.items()}
        for kind in degraded_scenes.OTHERS:
            notes[f"{way}_{kind}"] = degraded_scenes.correlation(score, bed, kind=kind)
        notes[f"{way}_unseen"] = degraded_scenes.correlation(score, bed, kind=degraded_scenes.UNSEEN)
    ours = seen.pop("trained")
    notes |= {**seen, "unseen": notes.pop("trained_unseen")}
    return Trial(min(seen[way] for way in ("prompts", "sharpness", "ridge")), ours, notes)
