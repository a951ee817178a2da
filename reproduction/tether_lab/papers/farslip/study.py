"""FarSLIP: patches inside a crop agree with the crop's own patches while captions are learnt."""

from __future__ import annotations

from typing import Any

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CAPTIONS, CLS, PATCH = 1e-3, 1e-3, 1e-3
ARMS: dict[str, tuple[float, dict[str, Any]]] = {
    "captions": (CAPTIONS, {"distill": 0.0}),
    "cls": (CLS, {"target": "cls"}),
    "patch": (PATCH, {}),
    "objects": (PATCH, {"regions": 1.0}),
}
"""Learning rate, and what is other than in the method's first stage."""
READ: dict[str, Any] = {"last": "self_correlation", "rows": "raw", "bins": "grid"}
"""How the paper reads boxes."""

CARD = Card.of(
    "farslip",
    claim=Claim(
        says="A CLIP that learns captions and holds the patches inside of random crops to the crops' own patches names "
        "more boxes by its patches than one that learns captions alone.",
        metric="boxes whose phrase, of 24, the patches inside say best, percentage points",
        margin=5.0,
        baseline="CLIP's loss alone, in as many steps at a rate chosen alike",
        scale="a tiny CLIP of scenes of one to four large things and of close-ups, 48 px, patches of 8, 1,000 steps of "
        "64; then 2,000 scenes of two to four things, 150 steps of 64, 4 crops of each image; boxes of 300 held-out "
        "scenes, 400 scenes to be found by their captions",
        equal="start, scenes, captions, order of the batches, steps, decay; the rate of each is chosen by one rule",
        conditions=(
            Condition(
                says="Captions find at most 1 point fewer scenes than with captions alone, and scenes captions.",
                ours="recall_patch",
                than="recall_captions",
                least=-1.0,
            ),
            Condition(
                says="They find no fewer than where patches are held to the crops' own embeddings.",
                ours="recall_patch",
                than="recall_cls",
            ),
            Condition(
                says="With crops of objects and their phrases besides, 3 points more are named.",
                ours="named_objects",
                than="ours",
                least=3.0,
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and drawn scenes of two to four things stand in for ViT-B and millions of aerial images, whose "
        "things are many and small.",
        "Both stages are one: objects are learnt beside the captions and the crops, in as many steps, at a rate that "
        "was not searched for them; in the paper their stage is 250 times slower.",
        "Crops' patches and crops' embeddings are compared by recall alone; boxes, which are no condition, say the "
        "opposite of the paper.",
        "The network itself reads the crops, as the release is configured; its averages and frozen copies are not "
        "measured.",
        "Equal captions of a batch are positives of each other, and the logit scale rests.",
    ),
    tried={
        (
            "this bed at 0.0001, 0.0003 and 0.001 on one pilot seed, crops' own embeddings at the last two "
            "alone; the rule: the rate that names most boxes, of the method among those that lose at most 1 "
            "point of recall against captions alone"
        ): (
            "Captions alone named 19.8, 20.1 and 22.5 % of the boxes and found 59.8, 63.5 and 65.6 %; with "
            "crops' patches 19.4, 19.0 and 20.5 % and 59.5, 64.0 and 65.4 %; with crops' own embeddings at "
            "the last two 25.1 and 28.5 % and 62.9 and 65.1 %. Before it was 19.5 and 52.9 %. A step with "
            "crops cost 4.5 times as much. Neither lower nor higher rates than these nor more steps were tried, so "
            "0.001 stayed for all."
        ),
    },
    minutes=14.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: a CLIP, and what it learns in four ways."""
    from tether.methods.farslip.recipe import LocalGlobal
    from tether_lab.worlds import asked_boxes

    bed = asked_boxes.prepare(lab)
    models = {"start": bed.start}
    for name, (rate, more) in ARMS.items():
        given = asked_boxes.settings(lab, rate=rate) | asked_boxes.COLUMNS | {"boxes": "boxes"} | more
        models[name] = asked_boxes.taught(lab, bed, LocalGlobal(**given))
    notes: dict[str, float] = {}
    for name, model in models.items():
        notes |= {
            f"named_{name}": asked_boxes.boxes_named(model, bed, **READ),
            f"value_{name}": asked_boxes.boxes_named(model, bed),
            f"recall_{name}": asked_boxes.recall(model, bed),
        }
    return Trial(notes["named_captions"], notes["named_patch"], notes)
