"""2SFT and MCIP: an image tower tuned for image search by class margins, whose images go on matching their texts."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CARD = Card.of(
    "retrieval-align",
    claim=Claim(
        says="Tuned by class margins and three captions an image (MCIP), one embedding is better for search by image "
        "and by text, taken together, than weights on the way to a model that was tuned by class margins alone.",
        metric="mean of the mean average precision of image to image and the recall at 5 of text to image, both among "
        "images of classes that were not learnt, points of 100",
        margin=2.0,
        baseline="weight interpolation (WiSE-FT) between the base and what class margins alone make of it: of eleven "
        "shares for each of three tunings (the tower's output at two rates, the joint embedding), the best by the "
        "same mean on validation classes",
        scale="a tiny CLIP, 1,200 steps on 6,000 scenes of two large things at 64 px; a class is two shapes, of 45; "
        "200 steps of 64 on 40 images each of 27 classes, 200 steps of Re-A on the same; 9 classes to choose by and 9 "
        "to measure on, 40 images each, no two of which one caption is true of",
        equal="base, images, classes, captions, order of the batches, steps and decay; MCIP costs what one tuning by "
        "class margins costs, and weight interpolation has three of them; 2SFT has Re-A's steps more; each got the "
        "best of four learning rates on a pilot seed, GPR-FT and Re-A of three each",
        conditions=(
            Condition(
                says="GPR-FT: image to image, the tower's output has 5 points more than the better of the base's "
                "output and joint embedding.",
                ours="map_state_gpr",
                than="map_base_best",
                least=5.0,
            ),
            Condition(
                says="GPR-FT: by text less is found than by the base.",
                ours="r5_base",
                than="r5_gpr",
            ),
            Condition(
                says="GPR-FT + Re-A: two thirds of that loss are regained.",
                ours="r5_2sft",
                than="two_thirds",
            ),
            Condition(
                says="GPR-FT + Re-A: image to image, the joint embedding has at most 2 points less than the tower's "
                "output after GPR-FT.",
                ours="map_2sft",
                than="map_state_gpr",
                least=-2.0,
            ),
            Condition(
                says="MCIP: image to image, the joint embedding has at most 2 points less than that.",
                ours="map_mcip",
                than="map_state_gpr",
                least=-2.0,
            ),
            Condition(
                says="MCIP: by text at most a point less is found than by the base.",
                ours="r5_mcip",
                than="r5_base",
                least=-1.0,
            ),
            Condition(
                says="An identity: through Re-A no number changes, of images' joint embeddings after MCIP, and of the "
                "tower's outputs after GPR-FT.",
                ours="changed_by_realigning",
                than=0.0,
                better="lower",
            ),
            Condition(
                says="GPR-FT + Re-A: the mean is 2 points above weight interpolation's.",
                ours="mean_2sft",
                than="baseline",
                least=2.0,
            ),
            Condition(
                says="MCIP: the mean is at most a point below that of class margins and CLIP's own loss at once, with "
                "one caption an image.",
                than="mean_both",
                least=-1.0,
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and synthetic scenes stand in for ViT-L at 336 pixels and photographs; GPR1200, Flickr and COCO "
        "are not repeated.",
        "Captions are made by rule and true, in three templates of the five that the base knows; the paper's come "
        "from a captioning model.",
        "No training code is public: the form of the loss over captions, scale 30, margin 0.3, its weight of 1, rates "
        "and steps are ours.",
        "Re-A has the images that the classes are learnt from, with one of their three captions, where the paper has "
        "pairs of its own; after GPR-FT it also moves the projection of images, which the paper leaves open.",
        "By text the base finds nearly all that is asked, so recall cannot rise here as it does in the paper.",
    ),
    tried={
        (
            "six colours, three textures, ten backgrounds, told in the captions; 300 steps at 0.001; a pilot on "
            "one other seed, as all of these, measured on validation classes. Changed since captions could be told "
            "apart without shapes, which the base did not learn."
        ): ("Image to image 11.8 before tuning and 12.0 after GPR-FT, where chance has 11; by text 95.8 and 8.6."),
        (
            "twelve colours, plain things on four bright backgrounds, which captions do not tell; the same steps. "
            "Changed for the same reason."
        ): (
            "Image to image 12.7, after GPR-FT 19.5, after MCIP 13.3; by text 97.8, after GPR-FT 10.0, with "
            "Re-A 17.2, after MCIP 97.8."
        ),
        "one thing, whose class is its shape and texture, twelve colours; a base of 350 steps": (
            "Image to image 10.8, by text 57.8; not gone on with. Two things in five colours on two "
            "backgrounds, the bed of the claim, had 12.4 and 89.4 after as many steps."
        ),
        (
            "the claim's bed on that seed; learning rates of 0.0001, 0.0003, 0.001 and, but for GPR-FT with Re-A, 0.003"
        ): (
            "Means: MCIP 58.4, 58.6, 59.3, 58.7; weight interpolation 59.2, 59.2, 59.6, 58.0; class margins "
            "and CLIP's own loss 58.7, 60.0, 60.6, 59.0; GPR-FT with Re-A at 0.001 57.3, 57.9, 57.5, and at 0.0003 "
            "with Re-A at 0.0003 and 0.003 58.9 and 57.6. The base has 58.0."
        ),
        "the same; captions weighing less beside classes, at 0.001": (
            "MCIP with a weight of 0.3 59.3 (image to image 22.4, by text 96.1), of 0.1 58.4 (27.4, 89.4); of "
            "1, as it stayed, 59.3 (19.4, 99.2). CLIP's own loss with 0.3 56.9."
        ),
    },
    minutes=7.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: a CLIP of scenes, tuned in six ways for search among images of other classes."""
    from tether_lab.worlds import image_search_arms

    notes = image_search_arms.compared(lab)
    return Trial(notes["mean_interpolated"], notes["mean_mcip"], notes)
