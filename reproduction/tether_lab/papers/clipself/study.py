"""CLIPSelf: the patches in a box learn to say what the model itself says of the box cut out."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

RATE = 1e-4
SPLIT, ALPHA = 3, 0.7
"""Rows and columns of the grid, at most, of images of six patches a side; share of the way."""

CARD = Card.of(
    "clipself",
    claim=Claim(
        says="The patches inside a box name the thing there more often after the image tower learnt from crops that "
        "the model read itself, without words, labels or boxes.",
        metric="boxes whose phrase, of 24, the patches inside say best, percentage points",
        margin=10.0,
        baseline="the same patches before, each with its own value in the last block",
        scale="a tiny CLIP of scenes of one to four large things and of close-ups, 48 px, patches of 8, 1,000 steps of "
        "64; then 2,000 scenes of two to four things, 150 steps of 64 images; boxes of 300 held-out scenes, 1,500 "
        "single things, 400 scenes to be found by their captions",
        equal="one set of weights is asked before and after; learning rates were tried in a pilot",
        conditions=(
            Condition(
                says="Of single things at most 2 points fewer are named by the whole image than before.",
                ours="whole_self",
                than="whole_start",
                least=-2.0,
            ),
            Condition(
                says="Captions find at most 2 points fewer scenes than before, and scenes captions.",
                ours="recall_self",
                than="recall_start",
                least=-2.0,
            ),
            Condition(
                says="Before training, patches that the last block mixes name fewer than those with their own value.",
                ours="baseline",
                than="plain_start",
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and drawn scenes stand in for EVA-CLIP's ViT-B and ViT-L and COCO.",
        "Images are read at the model's own size, 48 pixels, instead of 1,024 with crops of 224, so grids have at most "
        "3 rows and columns instead of 6.",
        "Weights are mixed with the start's once, at the end, instead of after each epoch.",
        "Positions and the patch embedding rest like all else outside the blocks; no detector is trained on top.",
    ),
    tried={
        (
            "this bed on two pilot seeds at 0.00005, 0.0001 and 0.0002, each with 0.5, 0.7, 0.85 and 1 of the way; "
            "the rule was the setting that names most boxes among those that lose at most 2 points of whole images"
        ): (
            "None lost so little on both, so the paper's 0.7 of the way and 0.0001 stayed. Patches named 38.8 "
            "and 31.9 % of the boxes, 23.9 and 17.7 before, 9.7 and 11.4 where the last block mixes them; crops 50.3 "
            "and 48.1. Whole images were named in 51.7 and 47.1 %, 53.6 and 55.7 before; captions found 43.6 and 39.0 "
            "%, 52.9 and 46.6 before. With half of the way it was 34.7 and 25.8, 52.6 and 49.8, 48.8 and 43.2 %. The "
            "condition on captions, which is ours, was kept although pilots did not meet it."
        ),
        "the same start and scenes, 150 steps of CLIP's loss on their captions at 0.001, in FarSLIP's check": (
            "Patches, read by values, named 17.4 % of the boxes, so learning more from these scenes is not "
            "enough. Before, read by self-correlation as FarSLIP does, they named 17.9: the gain over that is 12.8 "
            "points, 6.9 at least by the interval of the check, and the margin of 10 would not be shown."
        ),
    },
    minutes=6.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: what patches, crops and whole images say before and after."""
    from tether.adaptation.recipes.dense import DenseRecipe
    from tether_lab.worlds import asked_boxes

    bed = asked_boxes.prepare(lab)
    recipe = DenseRecipe(max_split=SPLIT, most=SPLIT**2, alpha=ALPHA, **asked_boxes.settings(lab, rate=RATE))
    found = {"start": bed.start, "self": asked_boxes.taught(lab, bed, recipe)}
    notes: dict[str, float] = {}
    for name, model in found.items():
        notes |= {
            f"named_{name}": asked_boxes.boxes_named(model, bed),
            f"plain_{name}": asked_boxes.boxes_named(model, bed, last="plain"),
            f"crops_{name}": asked_boxes.crops_named(model, bed),
            f"whole_{name}": asked_boxes.images_named(model, bed),
            f"recall_{name}": asked_boxes.recall(model, bed),
        }
    return Trial(notes["named_start"], notes["named_self"], notes)
