"""EuCLIP: a CLIP that compares by squared distance, and texts that lie nearer the origin than what they entail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from tether.core.geometry import GeometryName
    from tether.models.towers.clip import Clip
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.details import DetailScenes

ROWS, HELD_OUT = 4096, 300
STEPS, BATCH = 300, 128
ENTAILMENT, RADIUS = 0.2, 0.1
ALLOWANCE = 0.05
"""How far below CLIP's recall still counts as keeping up: about a seventh of it, as 15 points are where CLIP has 94."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One geometry with what was chosen for it in trials on validation scenes with seed 100; see ``tried``.

    Attributes:
        geometry: of the model.
        rate: highest learning rate.
        scale: of the similarity at the start.
        final_layernorm: whether the towers keep it.
    """

    geometry: GeometryName
    rate: float
    scale: float
    final_layernorm: str


CLIP = Setting("clip", 2e-3, 30.0, "keep")
EUCLIP = Setting("euclidean-squared", 2e-3, 5.0, "drop")

CARD = Card.of(
    "euclip",
    claim=Claim(
        says=f"EuCLIP keeps up with CLIP: its recall at 1 lies at most {100 * ALLOWANCE:.0f} points below. Nothing "
        "better is claimed.",
        metric=f"recall at 1, mean of both directions, among {HELD_OUT} held-out pairs",
        kind="no_worse",
        margin=ALLOWANCE,
        baseline="CLIP with a learning rate and a first scale of its own",
        scale=f"tiny CLIP at 32 px, {STEPS} steps of {BATCH} pairs, {ROWS} scenes of one thing with four details",
        equal="first weights, pairs and steps; trials of learning rate and first scale: seven for EuCLIP, twelve for "
        "CLIP",
        conditions=(
            Condition(
                says="With entailment texts lie nearer the origin than images.",
                ours="text_length_entailment",
                than="image_length_entailment",
                better="lower",
            ),
            Condition(
                says="On rows of one length EuCLIP's loss is CLIP's at twice the scale times the squared length.",
                ours="equal_length_deviation",
                than=1e-5,
                better="lower",
            ),
            Condition(
                says="An image inside its text's cone costs nothing.",
                ours="entailment_inside",
                than=1e-6,
                better="lower",
            ),
        ),
    ),
    differences=(
        "Learning rate and first scale were chosen for each geometry on validation scenes of another seed; the release "
        "starts the scale of squared distances at 1.",
        "The scale of squared distances may fall below 1; released training clamps it to 1 to 100 after every step.",
        "Cosines stay 1e-7 inside their range before an arc cosine, and slopes at equal points are finite.",
        "Entailment works in every Euclidean and hyperbolic geometry; the released SigLIP variant silently has none "
        "for squared distances. There is no SigLIP or distillation variant here.",
        "Tiny towers on synthetic scenes stand in for ViT-B/32 and ViT-B/16 on DataComp; the paper's zero-shot results "
        "are not repeated.",
    ),
    tried={
        (
            "CLIP less 15 points as the baseline, seven trials of rate and scale for EuCLIP and two for CLIP, "
            "which was the claim at first"
        ): "recall at 1 0.311 against 0.340 of CLIP, seeds 0 to 2",
        (
            "the trials, 300 steps, seed 100, validation scenes: learning rates of 0.001 and 0.002 by first "
            "scales of 5, 14.3 and 30 for CLIP, and of 1 (the release's), 5 and 14.3 for EuCLIP"
        ): (
            "recall at 1 of CLIP 0.250, 0.383, 0.353 and 0.362, 0.400, 0.420 (at 0.004 as well: 0.348, 0.395, "
            "0.373); of EuCLIP 0.207, 0.428, 0.375 and 0.217, 0.455, 0.413 (at 0.004 with 1 as "
            "well: 0.155); in those every clause of a caption named its thing, where it says 'it' now"
        ),
        (
            "CLIP at 0.002 on the captions of today, the same seed and scenes, with first scales of 30, 60 and "
            "100, as 30 had been the highest"
        ): "recall at 1 0.373, 0.343 and 0.337; EuCLIP was not tried on them",
    },
    minutes=5.0,
)


def reproduce(lab: Lab) -> Trial:
    """Train CLIP, EuCLIP, and EuCLIP with entailment on the same pairs in the same order."""
    from tether_lab.worlds.details import detail_scenes

    train = detail_scenes(lab, split="train", rows=lab.steps(ROWS, 64))
    test = detail_scenes(lab, split="test", rows=lab.steps(HELD_OUT, 16))
    notes: dict[str, float] = {}
    for name, setting, weight in (("clip", CLIP, 0.0), ("euclip", EUCLIP, 0.0), ("entailment", EUCLIP, ENTAILMENT)):
        model = fit(train, lab, setting=setting, entailment_weight=weight)
        notes |= look(model, test, name=name)
    notes["euclip_minus_clip"] = notes["recall_at_1_euclip"] - notes["recall_at_1_clip"]
    notes |= identities(lab)
    return Trial(baseline=notes["recall_at_1_clip"], ours=notes["recall_at_1_euclip"], notes=notes)


def fit(scenes: DetailScenes, lab: Lab, *, setting: Setting, entailment_weight: float) -> Clip:
    """A small model with a geometry, trained."""
    from tether.core.types import Batch
    from tether.methods.euclip import GeometryLoss
    from tether.models import create
    from tether.training.steps.presets import ContrastiveStep
    from tether_lab.worlds.in_memory import fit_rows

    model = create(
        "tiny",
        seed=lab.seed,
        context=48,
        geometry=setting.geometry,
        logit_scale=setting.scale,
        final_layernorm=setting.final_layernorm,
    )
    tokens = model.tokenizer(scenes.captions)
    model.prune_vocabulary_(tokens)
    objective = GeometryLoss(
        geometry=setting.geometry, entailment_weight=entailment_weight, min_radius=RADIUS, duplicates="positives"
    )
    steps = lab.steps(STEPS)

    def batch_of(chosen: Tensor) -> Batch:
        return Batch(scenes.pixels[chosen], tokens[chosen])

    return fit_rows(
        model,
        batch_of,
        rows=len(scenes),
        step=ContrastiveStep(objective, steps=steps, seed=0),
        steps=steps,
        batch_size=min(BATCH, len(scenes)),
        learning_rate=setting.rate,
        generator=lab.generator("batches"),
    )


def look(model: Clip, scenes: DetailScenes, *, name: str) -> dict[str, float]:
    """Recall by the model's own similarity, and mean lengths, under keys that end in its name."""
    from tether.core.geometry import geometry_of
    from tether.evaluate.retrieval import recall_at_k
    from tether.models.embed import encode_images, encode_texts

    geometry = geometry_of(model).detached()
    image = geometry.points(encode_images(model, scenes.pixels.split(256)))
    text = geometry.points(encode_texts(model, scenes.captions))
    recall = recall_at_k(image, text, similarity=geometry.similarity, k=(1, 5))
    return {
        f"recall_at_1_{name}": (recall["image_to_text_r1"] + recall["text_to_image_r1"]) / 2,
        f"recall_at_5_{name}": (recall["image_to_text_r5"] + recall["text_to_image_r5"]) / 2,
        f"image_length_{name}": image.norm(dim=1).mean().item(),
        f"text_length_{name}": text.norm(dim=1).mean().item(),
        f"logit_scale_{name}": float(model.logit_scale.detach()),
    }


def identities(lab: Lab) -> dict[str, float]:
    """What needs no training: EuCLIP's loss on rows of one length against CLIP's, and entailment inside the cone."""
    import torch

    from tether.losses import clip_loss
    from tether.methods.euclip import entailment, geometry_loss

    length, scale = 3.0, 2.0
    image, text = torch.nn.functional.normalize(torch.randn(2, 32, 16, generator=lab.generator("rows")), dim=2)
    squared = geometry_loss(length * image, length * text, scale, geometry="euclidean-squared").contrastive
    inside = entailment(text, specific=length * text, geometry="euclidean-squared", min_radius=RADIUS)
    return {
        "equal_length_deviation": float((squared - clip_loss(image, text, 2 * scale * length**2)).abs()),
        "entailment_inside": float(inside.max()),
    }
