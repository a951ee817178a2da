"""FIX-CLIP: short captions find masked images and long ones whole ones, with regional prompts and aligned layers."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CARD = Card.of(
    "fix-clip",
    claim=Claim(
        says="Where short captions are trained on masked images, more is found by them than where they are trained on "
        "whole ones.",
        metric="recall at 1 by first sentences, mean of both directions, percentage points",
        margin=1.0,
        baseline="the same positions, captions and losses, with whole images for the short captions, too",
        scale="a tiny CLIP of 24 tokens, taught for 2,000 steps on captions that fit; 250 steps of 64 on captions of "
        "about 68 tokens, 4,000 scenes of two things at 64 px; 300 images of other things each to choose from",
        equal="first weights, images, captions, order of the batches, steps, learning rate of 0.001, decay; the masked "
        "image is one more forward of 16 patches, beside which the baseline encodes both captions as well",
        conditions=(
            Condition(
                says="By first sentences two branches find at most a point less than before tuning.",
                than="short_untuned",
                least=-1.0,
            ),
            Condition(
                says="Long captions alone, on stretched positions, lose 3 points by first sentences.",
                ours="short_untuned",
                than="short_stretch",
                least=3.0,
            ),
            Condition(
                says="By long captions two branches find at most 2 points less than long captions alone.",
                ours="long_dual",
                than="long_stretch",
                least=-2.0,
            ),
            Condition(
                says="With prompts and groups it finds no less than Long-CLIP by long captions.",
                ours="long_fix_clip",
                than="long_long_clip",
            ),
            Condition(
                says="With prompts and groups it finds no less than Long-CLIP by first sentences.",
                ours="short_fix_clip",
                than="short_long_clip",
            ),
        ),
    ),
    differences=(
        "No code is released: 4 prompts a block, 2 groups of which the last is aligned with a weight of 0.1, and "
        "layers whose weights add up to 1 are ours.",
        "The claim is measured for the two branches alone: the paper has a point or two from prompts and groups each, "
        "which five seeds of this size cannot see; the whole method is a condition.",
        "What the mask of the prompts forbids scores minus infinity; the paper's product with zero would hide nothing.",
        "24 positions become 72, of which 8 rest, where the paper has 77, 248 and 20; towers of two blocks, so a group "
        "is one block.",
        "Captions are made by rule, not by a language model for 30 million images.",
    ),
    tried={
        "two harder sets of scenes and shorter first trainings, the pilots of long-clip: as long-clip": (
            "as long-clip: before tuning too little was found by first sentences to see what it costs"
        ),
    },
    minutes=14.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: a CLIP of short captions, tuned on long ones alone, with short ones, with masks, and as Long-CLIP."""
    from tether_lab.worlds import reading_on

    found = reading_on.found(lab, ("untuned", "stretch", "long_clip", "stretch_both", "dual", "fix_clip"))
    notes = reading_on.notes(found)
    return Trial(notes["short_stretch_both"], notes["short_dual"], notes)
