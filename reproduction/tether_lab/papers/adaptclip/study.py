"""AdaptCLIP: adapters that learnt from some things' defects find those of others, with one good image or none."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CARD = Card.of(
    "adaptclip",
    claim=Claim(
        says="Adapters that learnt from flawed things of some shapes tell which things of other shapes are flawed "
        "better with one good image of each than without any.",
        metric="image AUROC on things of unseen shapes, the mean over ten, percentage points",
        margin=5.0,
        baseline="the same adapters without a good image",
        scale="a tiny CLIP of flawed things, 64 px, 64 patches, 1,500 steps of 64; adapters of 10 passes over 400 "
        "images of 20 things of five shapes; 40 images each of ten things of five other shapes",
        equal="CLIP, adapters and images that are asked about",
        conditions=(
            Condition(
                says="So they tell which pixels are flawed: average precision is at least 5 points higher with it.",
                ours="ap_one",
                than="ap_zero",
                least=5.0,
            ),
            Condition(
                says="With it they tell flawed things better than a memory of its patches, where nothing is learnt.",
                than="auroc_memory",
            ),
            Condition(
                says="And so they tell flawed pixels, by average precision.",
                ours="ap_one",
                than="ap_memory",
            ),
            Condition(
                says="Differences beside the patch itself tell flawed things better than differences alone.",
                than="auroc_residual",
            ),
            Condition(
                says="Without a good image, features moved toward fixed texts and texts learnt for fixed features tell "
                "flawed things better than features and texts that learn together.",
                ours="baseline",
                than="auroc_joint",
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and drawn things stand in for ViT-L/14 at 518 px, VisA and MVTec; heads have 32 channels where "
        "the paper's have 128, and ten passes stand in for fifteen.",
        "Shapes are unseen by the adapters alone: the CLIP's captions name all ten and say states of all of them.",
        "Whole images are read with the final norm, which the released code leaves out, and by texts in words that "
        "this CLIP's captions have.",
        "The norm of the patches' adapter does not see the class token.",
        "In training an image's good one is drawn from other images of the same thing.",
        "All three kinds of adapters have the published rate; the memory has the better of two blocks.",
    ),
    tried={
        "this claim as first measured on seeds 0 to 4, with texts alone on whole images without the final norm": (
            "The same figures, but for image AUROC by texts, at most 0.1 points apart. A review asked that all "
            "arms read the same features."
        ),
        "this bed on pilot seeds 10 and 11, the memory on the second and on the last block, and texts alone": (
            "Image AUROC by the memory 80.6 and 73.1 on the second block, 77.3 and 72.3 on the last, with a "
            "precision of pixels of 37.8 and 34.9, 29.1 and 26.1; by texts 81.4 and 85.5, with 23.9 and 26.1."
        ),
        "this bed on pilot seed 10, adapters at rates of 1e-3, which is the published one, and of 3e-3": (
            "Image AUROC without and with a good image 80.1 and 81.6 at the first, 80.3 and 81.1 at the "
            "second; precision of pixels 30.3 and 43.6, 29.9 and 43.4. By differences alone, at the first, 83.8 and "
            "43.7 with it. So 5 points of image AUROC were not in sight before it was measured, and the arms were not "
            "tuned further: the machine was shared and time was short."
        ),
        "the same on pilot seed 10 with an earlier CLIP, which knew states less well, and 15 passes": (
            "Image AUROC without and with a good image 65.1 and 76.3, precision of pixels 22.6 and 36.3; by "
            "differences alone 76.9 and 36.4 with it; learnt together 67.4 and 79.4, 22.9 and 39.4; by the memory "
            "75.4 and 38.3 on the second block."
        ),
    },
    minutes=9.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: adapters as published, of differences alone and learnt together, beside texts and a memory."""
    from tether.methods.adaptclip import AdaptclipDetector
    from tether.tasks.anomaly import AnomalyclipDetector, PatchesDetector
    from tether_lab.worlds import adapted_flaws as bed

    world = bed.prepare(lab)
    whole, residual, joint = (
        AdaptclipDetector(head=bed.learnt(lab, world, **arm)) for arm in ({}, {"context": False}, {"apart": False})
    )
    zero, one = bed.scores(whole, world, shots=0), bed.scores(whole, world, shots=1)
    texts = bed.scores(AnomalyclipDetector(templates=bed.TEMPLATES, post_norm=True), world, shots=0)
    memory = bed.scores(PatchesDetector(block=bed.BLOCK), world, shots=1)
    alone, together = bed.scores(residual, world, shots=1), bed.scores(joint, world, shots=0)
    notes = {"ap_zero": zero[1], "ap_one": one[1], "auroc_texts": texts[0], "ap_texts": texts[1]}
    notes |= {"auroc_memory": memory[0], "ap_memory": memory[1], "auroc_residual": alone[0], "ap_residual": alone[1]}
    return Trial(zero[0], one[0], notes | {"auroc_joint": together[0], "ap_joint": together[1]})
