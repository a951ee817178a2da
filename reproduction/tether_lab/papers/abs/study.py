"""ABS: many crops where a vision transformer looks, each matched softly to descriptions of all classes."""

from __future__ import annotations

from typing import Any

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

IMAGES, VIEWS, SENTENCES = 600, 20, 6

CARD = Card.of(
    "abs",
    claim=Claim(
        says="Crops around patches that the image tower attends to, matched softly to sentences about the classes, "
        "name more images right than as many crops of the same sizes anywhere, matched alike.",
        metric="images named right, percentage points",
        margin=1.0,
        baseline=f"{VIEWS + 1} crops around places drawn evenly, of the same range of sizes, matched softly alike",
        scale=f"a tiny CLIP of 32 px and 700 steps; {IMAGES} scenes of 128 px with one thing of 2 to 21 % of the "
        f"area on a ground with a flaw, 16 classes of a texture and a colour, {SENTENCES} sentences each",
        equal=f"model, images, sentences, range of sizes, temperature, and {VIEWS + 1} forwards an image",
        conditions=(
            Condition(
                says="With half of the sentences about things of no class, soft matching is 1 point above the mean "
                "over a class's sentences, of the same crops.",
                ours="irrelevant_soft",
                than="irrelevant_mean",
                least=1.0,
            ),
            Condition(
                says="The views are no worse than the whole image with the mean of the same sentences.",
                than="plain",
            ),
        ),
    ),
    differences=(
        "A tiny CLIP's own attention in its last block stands in for DINO's, drawn scenes for ten sets of photographs, "
        "and sentences of the scenes' generator for those of a language model.",
        "Classes are a texture and a colour, with things of any shape, since a CLIP of this size and budget learnt no "
        "shapes.",
        f"{VIEWS} crops of pixels instead of 50, and 50 of tokens. Crops of tokens are measured, alone and by halves "
        "with those of pixels, and not claimed.",
        "The best 20 of 64 patches may be drawn; the paper draws from the best 20 of 196.",
        "Boxes of the things have 1 to 19 % of the area, 8 on the mean; 2 to 21 % are those of squares of their "
        "diameters.",
    ),
    tried={
        "classes of a colour and a shape: see GC-CLIP's card, which has the same CLIP": (
            "Shapes were named at chance, so this method was not tried on them."
        ),
        "this bed on one other seed, as it is": (
            "Crops where the tower looks had 78.7 % right, anywhere 76.3, by means 72.2 and 57.5; crops of "
            "tokens 52.7, half of them 68.5; the whole image 51.7. With half of the sentences about other things soft "
            "matching had 78.2 %, means 56.3."
        ),
        "this bed on a second seed, as it is": (
            "Crops where the tower looks had 73.3 % right, anywhere 74.8, by means 68.8 and 62.3; crops of "
            "tokens 51.3, half of them 65.2; the whole image 51.7. With half of the sentences about other things soft "
            "matching had 71.0 %, means 55.5."
        ),
    },
    minutes=6.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: the same images by crops where the tower looks and anywhere, with sentences that help and do not."""
    from tether.methods.abs.attention_views import AttentionViews
    from tether.tasks.classify.zero_shot import ZeroShotClassifier
    from tether_lab.worlds import small_things as bed

    model = bed.small_things_clip(lab)
    things = bed.lone_things(lab, "of all sizes", count=lab.steps(IMAGES, 4), units=bed.USUAL)
    useful = bed.descriptions(lab, each=SENTENCES)
    halved = bed.descriptions(lab, each=SENTENCES, irrelevant=SENTENCES // 2)

    def named(says: dict[str, list[str]], **given: Any) -> float:
        settings: dict[str, Any] = {"n": VIEWS, "views": "pixels", "seed": lab.seed, **given}
        head = AttentionViews(**settings, descriptions=says, batch_size=250).prepare(model, bed.CLASSES)
        return things.right(head.predict(things.images).cosine)

    def mean(says: dict[str, list[str]]) -> float:
        weights = ZeroShotClassifier(descriptions=says).prepare(model, bed.CLASSES).weights
        return things.right(bed.whole_rows(model, things) @ weights.T)

    uniform: dict[str, Any] = {"attention": "uniform", "n": VIEWS + 1}
    notes = {
        "area": things.area,
        "plain": mean(useful),
        "random_mean": named(useful, **uniform, match="mean"),
        "attention_mean": named(useful, match="mean"),
        "features": named(useful, views="features"),
        "half_features": named(useful, views="both", n=VIEWS // 2),
        "weighted": named(useful, view_weights=True),
        "irrelevant_plain": mean(halved),
        "irrelevant_soft": named(halved),
        "irrelevant_mean": named(halved, match="mean"),
    }
    return Trial(named(useful, **uniform), named(useful), notes)
