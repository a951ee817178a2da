"""CLAP: what some texts name and others do not is blurred and repaired; texts against shall spare false flaws."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

DENSE = "value-attention"
"""Which patches all arms read, by pilots."""
CARD = Card.of(
    "clap",
    claim=Claim(
        says="A map of what texts of damage name finds flaws better if what texts of undamaged things name is taken "
        "from it, and better than the whole image's probability of damage in every place.",
        metric="AUROC of pixels, percentage points",
        margin=2.0,
        baseline="the best, in that seed, of the map of the texts of damage alone, in the range of its image or as it "
        "is, and of the image's own probability of damaged against undamaged texts in every place",
        scale="a tiny CLIP of drawn things, 64 px, 64 patches, seven in ten of whose captions say the state; 300 new "
        "things, half of them flawed; 12 texts for and 18 against; cloth: 100 normal photographs to learn from, 100 "
        "of each of three kinds, 300 steps",
        equal="model, images, positive texts; each arm reads the best of three kinds of patches by pilots, which was "
        "the same for all",
        conditions=(
            Condition(
                says="Over the better map of the texts of damage alone it gains at least 2 points.",
                than="auroc_alone",
                least=2.0,
            ),
            Condition(
                says="So it does within flawed images, where telling images apart counts nothing.",
                ours="within_contrast",
                than="within_positive",
                least=2.0,
            ),
            Condition(
                says="At the threshold that finds 80 % of the flawed pixels, false pixels are 5 points of all good "
                "ones fewer than in the best of the baseline's maps.",
                ours="false_contrast",
                than="false_baseline",
                better="lower",
                least=5.0,
            ),
            Condition(
                says="Control: names of other drawn things in the place of texts of undamaged things gain no more than "
                "1 point over texts of damage alone.",
                ours="auroc_things",
                than="auroc_alone",
                better="lower",
                least=-1.0,
            ),
            Condition(
                says="Control: words of nothing that is drawn gain no more than 1 point, either.",
                ours="auroc_strange",
                than="auroc_alone",
                better="lower",
                least=-1.0,
            ),
            Condition(
                says="A patch's probability of damaged against undamaged texts, as WinCLIP scores, is at most 1 point "
                "ahead.",
                than="auroc_softmax",
                least=-1.0,
            ),
            Condition(
                says="With the network, image AUROC on photographs of cloth is no lower where both sets of texts say "
                "what is blurred than where those of damage alone do.",
                ours="cloth_contrast",
                than="cloth_positive",
            ),
        ),
    ),
    differences=(
        "Words of nothing that is drawn have vectors that this CLIP never learnt, in sentences that it did learn.",
        "Where a difference is cut off at 0, no threshold tells pixels apart. The count of false pixels ranks these by "
        "the difference before that; AUROC counts them as ties, as the method has them.",
        "No code is public: what an attention is, its range, the share of pixels, the mosaic's block, the network, its "
        "masks and losses and both scores are our definition.",
        "Six sets of medical images and a medical CLIP are replaced by drawn things, a tiny CLIP and photographs of "
        "cloth; nothing is said of medical images.",
    ),
    tried={
        (
            "this claim as it was first measured on seeds 0 to 4: texts of damage alone as the baseline, one "
            "control, of names of drawn things, called random, and false pixels with ties at 0"
        ): (
            "AUROC of pixels 66.6 % by the difference, 47.4 by texts of damage alone: +19.1 (8.3 to 29.9), in "
            "part; the control 65.5, the probability 66.3. False pixels fell by 23.7 points (lower bound -0.5), where "
            "one seed counted 100 %, as more than a fifth of its flawed pixels were 0. A review found that a map with "
            "the image's probability in every place has 70.7 and 68.0 on seeds 5 and 6. That map, the condition within "
            "images, the second control and the rule for ties were added after that, and fixed before seeds 0 to 4 "
            "ran again; the margins were kept."
        ),
        "this bed on pilot seeds 10 and 11, three kinds of patches": (
            "AUROC of pixels by texts of damage alone in the range of the image, as they are, less texts of "
            "undamaged things, less random ones, and by the probability: patches that attend by values in the last two "
            "blocks had 66.5, 68.2, 82.9, 53.8 and 82.8 % on seed 10 and 59.4, 59.5, 82.0, 45.1 and 83.3 on seed 11; "
            "their own values in the last block 50.1, 51.3, 75.1, 48.0 and 74.4, and 21.3, 24.2, 39.7, 37.0 and 41.3; "
            "tokens 43.3, 44.9, 61.7, 57.2 and 63.5, and 16.6, 20.3, 18.6, 20.2 and 23.8. By the mean of both "
            "seeds the first was the best of every arm, and all read it."
        ),
        "the photographs of cloth on pilot seed 11": (
            "AUROC 40.9 % with both sets of texts, 49.4 with those of damage alone, 51.7 by a memory of "
            "patches: chance, for a CLIP that has seen no cloth at a side of 64 px. It stayed as it was; a side of "
            "128 px and seed 10 were not run for want of time."
        ),
    },
    minutes=6.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: pixels of flaws by four maps, and photographs of cloth by two networks."""
    from tether_lab.worlds import contrasted_flaws, flawed_things

    model, images = flawed_things.base(lab), contrasted_flaws.asked(lab)
    maps, before = contrasted_flaws.attentions(lab, model, images.pixels, dense=DENSE)
    notes = {}
    for arm, found in maps.items():
        figures = contrasted_flaws.pixel_figures(found, images, before=before.get(arm))
        notes |= {f"{what}_{arm}": value for what, value in figures.items()}
    notes["auroc_alone"] = max(notes["auroc_positive"], notes["auroc_similar"])
    notes["false_alone"] = min(notes["false_positive"], notes["false_similar"])
    notes["false_baseline"] = min(notes["false_alone"], notes["false_image"])
    notes |= contrasted_flaws.cloth_figures(lab, model, dense=DENSE)
    return Trial(max(notes["auroc_alone"], notes["auroc_image"]), notes["auroc_contrast"], notes)
