"""ClipMD: a caption longer than the context is read through windows that overlap, and their embeddings averaged."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CARD = Card.of(
    "clipmd",
    claim=Claim(
        says="Tuned with windows, a CLIP finds 10 points more images by captions of three contexts than one that is "
        "tuned at its context.",
        metric="recall at 1 of text to image by long captions, percentage points",
        margin=10.0,
        baseline="the same CLIP tuned without windows: the better, in that seed, of captions that are cut and of "
        "sentences drawn anew that fit",
        scale="a tiny CLIP of 24 tokens, taught for 2,000 steps on captions that fit; 250 steps of 64 on captions of "
        "about 68 tokens, 4,000 scenes of two things at 64 px; 300 images to choose from, each with three of the same "
        "things",
        equal="first weights, images, order of the batches, learning rate of 0.001, decay; the baseline has twice the "
        "steps, about the same processor time, and nothing is tuned for one of them alone",
        conditions=(
            Condition(
                says="Without any tuning windows find 5 points more than cut captions.",
                ours="images_untuned_windows",
                than="images_untuned",
                least=5.0,
            ),
            Condition(
                says="By first sentences, which fit, the untuned model finds the same with windows as without.",
                ours="short_untuned_windows",
                than="short_untuned",
            ),
            Condition(
                says="Tuned, it finds no fewer images than with all positions interpolated to the long captions, at as "
                "many steps; the paper does not say so.",
                than="images_linear",
            ),
        ),
    ),
    differences=(
        "Each window has its own start and end token, where the paper's code cuts the ids as they are and reads a "
        "window without an end token at its largest word id; that way is mode='raw' and gives the code's figures.",
        "Windows of 24 tokens that overlap by 2, where the paper has 77 and 7.",
        "The encoder is a small CLIP of scenes with captions by rule, not ViT-B/32 on ROCO; the paper compares with "
        "medical models at 77 tokens, here the same model is tuned without windows.",
        "The headline is the paper's, against captions that are cut or fit; more positions, the simple way that "
        "changes the model, are a condition.",
    ),
    tried={
        (
            "seven colours, eight shapes, three sizes, broken things and a first CLIP of 800 steps; a pilot on one "
            "other seed. Changed since little was found by first sentences."
        ): (
            "Windows found 35.7 % of the images after tuning, cut captions 14.7 % after as many steps; "
            "before it 19.3 against 11.0 %."
        ),
    },
    minutes=13.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: a CLIP of short captions with and without windows, before and after tuning, and with more positions."""
    from tether_lab.worlds import reading_on

    found = reading_on.found(lab, ("untuned", "untuned_windows", "cut", "crop", "windows", "linear"))
    notes = reading_on.notes(found)
    return Trial(max(notes["images_cut"], notes["images_crop"]), notes["images_windows"], notes)
