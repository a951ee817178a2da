"""AnomalyCLIP: two prompts that never name the object learn on defects of some things and find those of others."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CARD = Card.of(
    "anomalyclip",
    claim=Claim(
        says="Two prompts that never name the object, learnt on flawed things of five shapes, tell better which places "
        "of things of five other shapes are flawed than WinCLIP's sentences do on the same features, and than by the "
        "whole image's score in every place.",
        metric="pixel AUROC on shapes that were not learnt from, percentage points",
        margin=5.0,
        baseline="the better, in that seed, of two maps by the mean of WinCLIP's states in sentences of the kind that "
        "the CLIP has read: on the same patches, or the image's own score in every place",
        scale="a tiny CLIP of four blocks, 64 px, 64 patches, of whole and flawed things of all ten shapes, of which "
        "seven captions in ten say the state; 400 images with masks, 10 epochs; 400 images of other shapes",
        equal="model, images and features, those of the best of five ways to read patches for both on pilot seeds",
        conditions=(
            Condition(
                says="The average precision of pixels is at least 5 points higher, too, than in the better of those "
                "maps.",
                ours="pixel_ap",
                than="pixel_ap_baseline",
                least=5.0,
            ),
            Condition(
                says="Within flawed images, where telling images apart counts nothing, they are at least 5 points "
                "better than the sentences.",
                ours="within",
                than="within_sentences",
                least=5.0,
            ),
            Condition(
                says="They tell by at least 5 points of image AUROC better which images are flawed.",
                ours="image_auroc",
                than="image_auroc_sentences",
                least=5.0,
            ),
            Condition(
                says="Learnt on patches that attend by values they tell flawed places by at least 3 points better than "
                "learnt on patches as they leave the tower.",
                than="pixel_auroc_plain",
                least=3.0,
            ),
            Condition(
                says="On other shapes they are no worse than prompts that name the shape.",
                than="pixel_auroc_named",
            ),
            Condition(
                says="They are no worse than two vectors of the joint space that learn from the same masks.",
                than="pixel_auroc_free",
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and drawn things stand in for ViT-L/14 at 518 pixels, VisA and MVTec; its captions name all ten "
        "shapes and say states of all of them.",
        "Two of four blocks are changed (19 of 24), and cosines are divided by 0.02 in learning (0.07).",
        "A map is the mean over blocks, not the sum, so that it lies between 0 and 1; only the last block is read, as "
        "in the published commands.",
        "The blur is 4 of 518 pixels, as a share of the map's side.",
        "Deep vectors are not rounded to 16 bits; a head keeps the two texts' embeddings, not the vectors.",
        "Sentences tried nine settings on both pilot seeds, prompts nine on one and five, of two blocks, on the other.",
    ),
    tried={
        (
            "this claim as it was first measured on seeds 0 to 4: sentences on patches as the baseline, precision "
            "of pixels a note, and maps of prompts with names not blurred"
        ): (
            "Pixel AUROC 85.2 % against 66.7: +18.5 (2.8 to 34.1), in part; precision 14.9 % against 8.8, and "
            "18.3 by two vectors. A review found that a map with the image's score by sentences in every place has "
            "70.8 and 72.3 on seeds 5 and 6, above sentences on seeds 0, 2 and 4. That map and the conditions of "
            "precision and within images were added after that, and fixed before seeds 0 to 4 ran again; the margins "
            "are the plan's 5, and the gain in precision had been seen."
        ),
        (
            "sentences on this bed on pilot seeds 10 and 11, patches with none, one, two, three or four blocks "
            "changed, the last two blocks read, the final norm on images, and other sentences"
        ): (
            "Seed 10: pixel AUROC 67.4, 71.4, 80.6, 77.7 and 73.6 %, of two blocks read 80.5; image AUROC 82.4 "
            "each time, with the norm 82.4; bare states 80.0 and 82.5, all of WinCLIP's sentences 79.9 and 82.3. Seed "
            "11: 26.9, 48.0, 81.3, 84.0 and 83.6, of two blocks read 81.7; images 80.6, with the norm 80.7; bare "
            "states 81.1 and 80.7, WinCLIP's 81.4 and 80.6. Two blocks had the best mean: 80.95, and three 80.85."
        ),
        (
            "learnt prompts on the same: the same ways to read, a divisor of 0.02, a rate of 3e-3, a weight of 1 "
            "on maps, and that without deep vectors"
        ): (
            "Seed 10, none, two, three and four blocks: 81.4, 86.4, 85.3 and 84.6 %; image AUROC 76.9, 79.4, "
            "78.8 and 78.9, with the norm 79.5; the others with two blocks 86.3, 86.5, 85.1 and 85.0, images 79.9, "
            "79.7, 80.0 and 79.9. Seed 11, two blocks: 85.7, and the others 86.4, 85.5, 85.3 and 84.8; images 79.9, "
            "80.0, 79.8, 80.4 and 80.4. The best mean of pixel AUROC was kept: two blocks and 0.02."
        ),
        (
            "prompts with names and free vectors on pilot seed 10, two blocks, a divisor of 0.07; free vectors, "
            "and prompts learnt on plain patches, on seed 11 with 0.02"
        ): "Pixel AUROC 86.4 and 87.2 %, image AUROC 78.7 and 80.6; 86.9 and 83.8, 80.1 and 74.7.",
    },
    minutes=25.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: flaws of other shapes by sentences, by learnt prompts, and by what stands in their place."""
    from tether_lab.worlds import flaw_prompts

    bench, recipe = flaw_prompts.prepare(lab), flaw_prompts.recipe_of(lab)
    arms = {
        **flaw_prompts.sentence_figures(bench),
        "": bench.figures(flaw_prompts.learnt(bench, recipe)),
        "plain": bench.figures(flaw_prompts.learnt(bench, flaw_prompts.recipe_of(lab, blocks=0))),
        "named": flaw_prompts.named_figures(bench, recipe),
        "free": bench.figures(flaw_prompts.free(bench, recipe)),
    }
    notes = {f"{what}_{arm}".strip("_"): value for arm, found in arms.items() for what, value in found.items()}
    notes["pixel_ap_baseline"] = max(notes["pixel_ap_sentences"], notes["pixel_ap_image"])
    baseline = max(notes["pixel_auroc_sentences"], notes["pixel_auroc_image"])
    return Trial(baseline, notes.pop("pixel_auroc"), notes)
