"""GRAIN: CLIP is trained with boxes and descriptions of the regions of its images, which a decoder looks for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.described_things import Arm

STEPS, LONGER = 600, 1400
"""Of all arms, and of CLIP's loss alone in the processor time that the method takes."""
RATES = {"clip": 1e-2, "grounded": 5e-3}
"""Each the best of 0.002, 0.005 and 0.01 on pilot seed 10; local alignment takes CLIP's, the decoder the method's."""
ARMS: dict[str, tuple[Arm, float, int]] = {
    "clip": ("clip", RATES["clip"], STEPS),
    "clip_longer": ("clip", RATES["clip"], LONGER),
    "local": ("local", RATES["clip"], STEPS),
    "decoder": ("decoder", RATES["grounded"], STEPS),
    "grounded": ("grounded", RATES["grounded"], STEPS),
}
"""What is learnt from, learning rate and steps."""

CARD = Card.of(
    "grain",
    claim=Claim(
        says="A CLIP that also learns where the things of an image are and what is said of each tells captions from "
        "those with exchanged attributes more often than one that learns captions alone.",
        metric="images that prefer their caption to the one with exchanged colours, percentage points",
        margin=5.0,
        baseline="CLIP's loss alone: the better, in that seed, of as many steps and of as much processor time",
        scale="a tiny CLIP from random weights, 32 px, 600 steps of 64 by Muon; 4,000 scenes of one or two things of "
        "6 shapes, 6 colours and 2 sizes on paper, 6 pairs of colour and shape held out; a decoder of 2 layers, 5 "
        "queries; 500 pairs of held-out scenes with exchanged colours, 500 single things, 300 scenes with boxes",
        equal="scenes, captions, order of the batches, first weights of both towers, optimiser, decay, steps unless "
        "said; CLIP's loss and the method each took the best of three learning rates by this metric on a pilot seed, "
        "local alignment that of CLIP's loss, and the decoder with CLIP's loss alone that of the method",
        conditions=(
            Condition(
                says="By descriptions it names 2 points more of the single things whose colour and shape were never "
                "seen together, among all 36 names.",
                ours="unseen_grounded",
                than="unseen_best_clip",
                least=2.0,
            ),
            Condition(
                says="The boxes that are matched with true ones have a mean IoU of at least 0.5 with them.",
                ours="iou_grounded",
                than=0.5,
            ),
            Condition(
                says="That IoU is higher than with the boxes that another image got, by 0.05: of five guesses some "
                "lie well by chance.",
                ours="iou_grounded",
                than="iou_turned_grounded",
                least=0.05,
            ),
            Condition(
                says="It prefers its caption more often than with local alignment of words and patches, which needs "
                "no boxes, in as many steps.",
                than="binding_local",
            ),
            Condition(
                says="It prefers its caption at least as often as behind the decoder with CLIP's loss alone: regions "
                "teach it something besides what the new decoder does.",
                than="binding_decoder",
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and drawn scenes with true boxes and descriptions stand in for CC3M and CC12M with those of a "
        "language model and a detector.",
        "The decoder has 2 layers of width 64 instead of 6 of 512. The towers have no layer norm of queries and keys, "
        "which `model.block.qkv_norm=qk` would add.",
        "Muon takes the place of AdamW, in all arms: so few steps are enough to learn something.",
        "Equal captions and equal descriptions of a batch share their target instead of being each other's negatives.",
        "A description says of a thing how large it is; what an unseen class is called stands before it.",
    ),
    tried={
        (
            "this bed at the learning rate of 0.005 on one pilot seed each: CLIP's loss alone on 5,000 scenes in "
            "120 steps, the method on 4,000 in 100"
        ): (
            "63 and 59 % of captions were preferred (chance 50), 32 and 23 % of unseen pairs named by "
            "descriptions (chance 3); the IoU was 0.42, and 0.38 with the boxes of another image. A step cost 2.0 "
            "times as much with regions. No other setting was tried."
        ),
        (
            "AdamW at 0.001 and 0.002, one pilot seed each: 8 shapes and colours on three grounds, 400 steps of "
            "64; and 6 of each, 600 steps of 32"
        ): (
            "Little was learnt: captions were preferred 57 and 63 % by CLIP's loss, 62 and 62 % with regions "
            "in the first world, 54 and 50 % in the second (chance 50). The IoU was 0.49, but 0.44 to 0.47 with the "
            "boxes of another image."
        ),
        (
            "this bed on seeds 0 to 4 with 120 steps, 240 of CLIP's loss in as much processor time, all at the one "
            "rate of 0.005: the result that was stored first"
        ): (
            "56.7 % of captions were preferred with regions, 63.3 with CLIP's loss in as many steps, 70.2 in "
            "as much time, 58.9 with local alignment: 13.6 points less than the better, contrary. By descriptions "
            "23.2 % of unseen pairs were named, against 17.6, 24.1 and 21.3. The IoU was 0.47, and 0.42 with the boxes "
            "of another image."
        ),
        (
            "after that run, by its reviewer: this bed on the same five seeds, behind the decoder with "
            "CLIP's loss alone, 120 steps"
        ): (
            "58.4, 58.4, 52.9, 55.1 and 55.6 % of captions were preferred, 56.1 on the mean, where boxes and "
            "descriptions besides had 56.7; 23.6 % of unseen pairs were named by descriptions, where they had 23.2; "
            "the IoU was 0.19. So it is the new decoder in place of pooling that cost; regions taught boxes."
        ),
        "after that run, by its reviewer: this bed on one other seed with 600 steps, all at the rate of 0.005": (
            "66.5 % of captions were preferred with regions, 73.2 behind the decoder with CLIP's loss alone, "
            "84.1 by captions alone, 88.8 in 1,200 steps; of unseen pairs 38.2, 35.8, 32.4 and 39.2 % were named by "
            "descriptions. The IoU was 0.72, and 0.26 with the boxes of another image."
        ),
        "this configuration on pilot seed 10 at the rates of 0.002, 0.005 and 0.01, 600 steps": (
            "71.1, 75.6 and 87.9 % of captions were preferred with CLIP's loss, 68.6, 72.1 and 53.9 with "
            "regions; 27.4, 21.0 and 35.6 % of unseen pairs were named by descriptions, and 38.0, 37.6 and 34.4. The "
            "IoU was 0.58, 0.72 and 0.75. A step cost 2.1 to 2.3 times as much with regions. CLIP's loss was best at "
            "the highest rate; higher ones were not tried."
        ),
    },
    minutes=20.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: what five CLIPs know of the things of scenes, and where two of them see them."""
    from tether_lab.worlds import described_things

    bed = described_things.prepare_described(lab)
    notes: dict[str, float] = {}
    for name, (arm, rate, steps) in ARMS.items():
        found = asdict(described_things.figures_of(described_things.learn(lab, bed, arm, rate=rate, steps=steps), bed))
        behind = arm in described_things.WEIGHTS
        notes |= {f"{key}_{name}": value for key, value in found.items() if behind or not key.startswith("iou")}
    for key in ("binding", "unseen"):
        notes[f"{key}_best_clip"] = max(notes[f"{key}_clip"], notes[f"{key}_clip_longer"])
    return Trial(notes["binding_best_clip"], notes["binding_grounded"], notes)
