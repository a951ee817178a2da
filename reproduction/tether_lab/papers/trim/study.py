"""TRIM: the patches that a text is about, and one more that is the mean of all others."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CARD = Card.of(
    "trim",
    claim=Claim(
        says="Of the quarter of patches that fit a phrase by CLIP's own scores, more show the thing that the phrase "
        "names than of those that the class token attends to, which knows no text.",
        metric="kept patches at least half of which shows the named thing, percentage points",
        margin=5.0,
        baseline="as many patches, those that the class token attends to most, in the better block of two",
        scale="a small CLIP of 48 px and 36 patches, whose class token alone was trained; 1,000 scenes of three or "
        "four things; 9 patches and the mean of the others",
        equal="model, scenes and patches kept; each chooses among two settings, sign or block, on 200 other scenes",
        conditions=(
            Condition(
                says="It is at least 1.5 times the share of a random choice.",
                than="half_more_than_random",
            ),
            Condition(
                says="Asked for a shape without its colour, the kept patches and their mean tell the colour at most 2 "
                "points less often than all patches.",
                ours="colour_kept",
                than="colour_all",
                least=-2.0,
            ),
            Condition(
                says="What is left, the mean among it, is at most 30 % of the tokens.",
                ours="left",
                than=30.0,
                better="lower",
            ),
        ),
    ),
    differences=(
        "No multi-modal language model reads what is left; the mean of the tokens in the joint space is compared with "
        "texts in its place.",
        "Patches are taken after the last block: after the one before it, the released code's, the mean of all patches "
        "told no colours on the pilot seeds.",
        "Scores are cosines, and the sign is chosen on scenes with masks; the released code turns the sign of plain "
        "products around, which sign=-1 and normalize=False give.",
        "The share is fixed here; the released rule by quartiles is ratio='auto'.",
    ),
    tried={
        (
            "this bed with 400 scenes, patches after the first and after the second of two blocks, pilot seeds 10 "
            "and 11; of the two the block was taken whose patches tell more colours"
        ): (
            "The mean of all patches told 17 and 21 % of colours after the first block, where chance is 17, "
            "and 36 and 38 % after the second. Kept patches like the phrase showed the thing in 15 and 10 % after the "
            "first block and 16 and 10 % after the second, those unlike it in 2 to 4 %, any in 6 %, those that the "
            "class token attends to in 13 and 14 %."
        ),
    },
    minutes=4.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: patches by text, by attention and by chance, and what is read of them."""
    import torch

    from tether_lab.worlds import asked_tokens as bed

    found = bed.prepare(lab)
    scenes, sign = found.asked, bed.best_sign(found)
    named, questions = found.phrases[scenes.named], found.questions[scenes.named % len(bed.SHAPES)]
    told = {one: bed.inside(scenes, bed.trimmed(found, scenes, named, sign=one).index) for one in bed.SIGNS}
    attended = bed.by_scores(scenes, scenes.seen[:, bed.best_block(found)])
    chance = torch.rand(scenes.inside.shape, generator=lab.generator("random patches"))
    random = bed.by_scores(scenes, chance)
    kept = bed.trimmed(found, scenes, questions, sign=sign)
    notes = {
        "inside_like": told[1],
        "inside_unlike": told[-1],
        "sign": float(sign),
        "inside_random": 100 * float(scenes.inside.mean()),
        "half_more_than_random": 150 * float(scenes.inside.mean()),
        "left": 100 * kept.tokens.shape[1] / scenes.h.shape[1],
        "colour_kept": bed.colours_right(found, scenes, kept.tokens),
        "colour_all": bed.colours_right(found, scenes, scenes.h),
        "colour_random": bed.colours_right(found, scenes, bed.with_mean(scenes, random)),
        "colour_attended": bed.colours_right(found, scenes, bed.with_mean(scenes, attended)),
        "colour_embedding": bed.colours_right(found, scenes, None),
    }
    return Trial(bed.inside(scenes, attended), told[sign], notes)
