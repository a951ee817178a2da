"""MTA-CLIP: masks of a query decoder are aligned with prompts of their classes, which the decoder reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.named_masks import Kind

STEPS, LONGER = 300, 420
"""Of heads, and of a head of pixels in the processor time that one of masks takes."""
RATE = 3e-3
ARMS: dict[str, tuple[Kind, int, int]] = {
    "pixels": ("pixels", STEPS, 1),
    "pixels_dice": ("pixels_dice", LONGER, 1),
    "masks_alone": ("masks_alone", STEPS, 1),
    "masks": ("masks", STEPS, 1),
    "masks_prompts": ("masks", STEPS, 4),
}
"""What learns, steps, and prompts of a class."""

CARD = Card.of(
    "mta-clip",
    claim=Claim(
        says="A head that finds masks and aligns them with class texts tells the classes of pixels better than one "
        "that aligns each pixel with them.",
        metric="mean IoU of classes, percentage points",
        margin=1.0,
        baseline="pixels against the same texts behind the same pixel decoder: the better, in that seed, of as many "
        "steps with cross-entropy, the paper's baseline, and of as much processor time with cross-entropy and the dice "
        "loss, which masks have, too",
        scale="a tiny CLIP of scenes of four plain shapes, 48 px, 36 patches, at rest; 1,500 scenes of two to four "
        "textured things, four shapes as classes, two others and the ground as background; 300 steps of 16; 12 "
        "queries, 3 layers, one prompt a class; 300 scenes of 64 px",
        equal="CLIP, scenes, order of the batches, pixel decoder, learnt prompts, optimiser, decay, steps unless "
        "said; learning rates by one rule, of two that were tried on two other seeds the one of the higher mean IoU, "
        "which was the same for all",
        conditions=(
            Condition(
                says="The mean IoU is 1 point higher than that of pixels with cross-entropy alone after as many steps.",
                ours="miou_masks",
                than="miou_pixels",
                least=1.0,
            ),
            Condition(
                says="Borders are met by 1 point more (F1 at 2 pixels).",
                ours="borders_masks",
                than="borders_best_pixels",
                least=1.0,
            ),
            Condition(
                says="The mean IoU is higher than that of the same masks named by a class head alone.",
                ours="miou_masks",
                than="miou_masks_alone",
            ),
        ),
    ),
    differences=(
        "No code of the paper was found: order within a decoder layer, temperature, number and length of prompts, and "
        "which texts the contrast takes are ours.",
        "The CLIP rests; in the paper it is tuned.",
        "One map of patches stands in for a pixel decoder of several scales, and all pixels count where Mask2Former "
        "draws points.",
        "Masks that show no object count less in the answer.",
        "Heads learn for 300 steps; whether masks catch up in more was not tried.",
        "Drawn scenes stand in for ADE20K and Cityscapes.",
    ),
    tried={
        "this bed in 200 steps at the learning rate of 0.003, one pilot seed": (
            "The mean IoU was 31.3 % with masks and 23.9 % with pixels, the F1 of borders 24.9 and 6.1 %. A "
            "step with masks cost 1.4 times as much."
        ),
        "this bed on two pilot seeds at 0.003 and 0.01, masks in 300 steps, pixels in 450": (
            "The mean IoU was 32.3 and 31.1 %, 31.2 and 30.4 with masks, 32.7 and 29.7, 32.9 and 30.1 with "
            "masks without the contrast, 31.1 and 30.8, 33.2 and 31.6 with pixels, and 33.8 and 33.8, 36.8 and 35.4 "
            "with pixels and the dice loss, which was added as a baseline here. At 0.003 borders were met in 26.9, "
            "26.6, 17.2 and 22.7 % on one seed and 26.1, 26.0, 19.5 and 26.2 % on the other. Four prompts a class had "
            "30.8 and 28.4 % (borders 27.8 and 27.4)."
        ),
    },
    minutes=8.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: five heads on the same scenes."""
    from tether_lab.worlds import named_masks

    bed, notes = named_masks.prepare_named(lab, clutter=True), dict[str, float]()
    for name, (kind, steps, prompts) in ARMS.items():
        found = named_masks.segmented(lab, bed, kind, rate=RATE, steps=steps, prompts=prompts)
        notes |= {f"{key}_{name}": value for key, value in found.items() if key != "seconds"}
    for key in ("miou", "borders"):
        notes[f"{key}_best_pixels"] = max(notes[f"{key}_pixels"], notes[f"{key}_pixels_dice"])
    return Trial(notes["miou_best_pixels"], notes["miou_masks"], notes)
