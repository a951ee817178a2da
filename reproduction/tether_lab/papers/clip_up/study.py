"""CLIP-UP: a trained CLIP whose feed-forward nets become experts, and goes on learning."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from tether.models.towers.clip import Clip
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.reworded import Worded

IMAGES, POOL, LAYERS, BATCH, WARMUP = 4_000, 300, 4, 64, 30
START, STEPS, LONGER = 300, 160, 1.7
"""Steps of the dense model, steps that it goes on for, and how many times as many cost what experts do."""
RATE, LOW_RATE = 2e-3, 5e-4
EXPERTS, CHOICES, CAPACITY = 4, 2, 2.0
MOST_COST, EVENER, IDENTICAL = 2.2, 0.8, 1e-5

CARD = Card.of(
    "clip-up",
    claim=Claim(
        says="A small CLIP that goes on as a mixture of experts finds more than one that goes on dense for as much "
        "processor time.",
        metric="recall at 1 on held-out pairs, mean of both directions, percentage points",
        margin=1.0,
        baseline=f"the same trained model, dense, {LONGER:g} times as many further steps",
        scale=f"{IMAGES:,} scenes at 32 px, a tiny CLIP of {LAYERS} blocks a tower, {START} steps of {BATCH} and then "
        f"{STEPS}; {EXPERTS} experts in every other block, {CHOICES} for each token, capacity {CAPACITY:g}; {POOL} "
        "images to choose from",
        equal=f"the start, order of the batches, learning rate, schedule, and processor time: a step with experts took "
        f"less than {LONGER:g} times a dense one's in a pilot",
        conditions=(
            Condition(
                says="It finds 1 point more than the dense model does after as many further steps.",
                ours="recall_upcycled",
                than="recall_dense",
                least=1.0,
            ),
            Condition(
                says="A mixture of experts that learns from the start, all steps long, finds less.",
                ours="recall_upcycled",
                than="recall_from_scratch",
            ),
            Condition(
                says=f"Feed-forward nets do at most {MOST_COST:g} times the multiplications.",
                ours="feed_forward_cost",
                than=MOST_COST,
                better="lower",
            ),
            Condition(
                says="Where no expert is ever full, the start's embeddings are the dense model's to 0.00001.",
                ours="difference_at_start",
                than=IDENTICAL,
                better="lower",
            ),
            Condition(
                says="The busiest expert's share of the choices is at least a fifth smaller than without the two "
                "losses of balance.",
                ours="top_share",
                than="most_of_top_share",
                better="lower",
            ),
        ),
    ),
    differences=(
        "No code and no settings are public: half of the blocks, the weights of the two losses and how the router "
        "starts are usual ones, and slots are given as apple/axlearn gives them.",
        "The paper upcycles models as large as ViT-L/14 with 8 experts on web-scale data; here are 4 experts in 2 of 4 "
        "blocks of a tower, and drawn scenes.",
        "Each image and each text is routed by itself, and padding takes no slot, so that no row changes another's "
        "embedding.",
        "The further steps begin with a warm-up and new moments at a quarter of the first learning rate; the paper's "
        "rate is not known.",
    ),
    tried={
        (
            "400 first and 200 further steps, 1.6 times as many for the dense model, a pilot on one other seed; "
            "shortened because a seed took 155 CPU seconds"
        ): (
            "68.8 points dense, 67.3 after as many steps, 65.2 as a mixture of experts, 71.8 for one trained "
            "from the start; the busiest expert had 31 % of the choices, 35 % without the losses of balance"
        ),
    },
    minutes=10.0,
)


def reproduce(lab: Lab) -> Trial:
    """Train a dense CLIP, let it go on in four ways, and train a mixture of experts from the start."""
    import torch

    from tether.methods.clip_up.upcycle import expert_costs, upcycle
    from tether.models import Clip, create
    from tether_lab.worlds import in_memory, reworded

    asked = reworded.draw_scenes("test", count=lab.steps(POOL, 20), seed=lab.seed)
    start, steps = lab.steps(START, 3), lab.steps(STEPS)
    notes: dict[str, float] = {}

    def rows(model: Clip) -> tuple[Tensor, Tensor]:
        return in_memory.unit_pairs(model, asked.pixels, asked.captions)

    def go_on(model: Clip, arm: str, *, count: int = steps, balanced: bool = False) -> Clip:
        model = train(lab, copy.deepcopy(model), steps=count, rate=LOW_RATE, balanced=balanced)
        notes[f"recall_{arm}"] = 100 * in_memory.mean_recall(*rows(model))
        return model

    tower = {"layers": LAYERS}
    new = create("tiny", seed=lab.seed, image_size=reworded.SIDE, context=reworded.CONTEXT, vision=tower, text=tower)
    dense = train(lab, new, steps=start, rate=RATE)
    roomy, sparse = (
        upcycle(dense, experts=EXPERTS, top_k=CHOICES, capacity_factor=capacity, seed=lab.seed)
        for capacity in (EXPERTS, CAPACITY)
    )
    notes["difference_at_start"] = max(
        float((one - two).abs().max()) for one, two in zip(rows(dense), rows(roomy), strict=True)
    )
    notes["feed_forward_cost"] = expert_costs(sparse).feed_forward
    for arm, model in (("at_start", dense), ("upcycled_at_start", sparse)):
        notes[f"recall_{arm}"] = 100 * in_memory.mean_recall(*rows(model))
    go_on(dense, "dense")
    go_on(dense, "dense_longer", count=round(steps * LONGER))
    notes["top_share"] = busiest(go_on(sparse, "upcycled", balanced=True), asked)
    notes["most_of_top_share"] = EVENER * busiest(go_on(sparse, "unbalanced"), asked)
    scratch = Clip(sparse.config)
    scratch.initialise_(torch.Generator().manual_seed(lab.seed))
    train(lab, scratch, steps=start + steps, rate=RATE, balanced=True)
    notes["recall_from_scratch"] = 100 * in_memory.mean_recall(*rows(scratch))
    return Trial(notes["recall_dense_longer"], notes["recall_upcycled"], notes)


def train(lab: Lab, model: Clip, *, steps: int, rate: float, balanced: bool = False) -> Clip:
    """The model after more steps, in eval mode.

    Args:
        lab: seed of the scenes and of their order, which starts anew.
        model: changed in place.
        steps: of the optimiser, with a warm-up and a cosine.
        rate: the highest learning rate.
        balanced: whether the two losses that keep experts in balance are added.
    """
    from tether.losses import ClipLoss
    from tether.training.steps.composed import ComposedStep
    from tether_lab.worlds import in_memory, reworded

    seen = reworded.draw_scenes("train", count=lab.steps(IMAGES, 160), seed=lab.seed)
    tokens = model.tokenizer(seen.captions)
    model.prune_vocabulary_(tokens)
    batches = in_memory.shuffled(seen.pixels, tokens, size=BATCH, generator=lab.generator("batches"))
    step = ComposedStep(
        ClipLoss(), steps=steps, seed=lab.seed, terms=["objective", "experts"] if balanced else ["objective"]
    )
    in_memory.fit_batches(model, step, batches, steps=steps, warmup=min(WARMUP, steps - 1), learning_rate=rate)
    model.restore_vocabulary_()
    return model


def busiest(model: Clip, asked: Worded) -> float:
    """Share of the choices that fall on the busiest expert, mean over layers and then towers."""
    import torch

    from tether.models.towers.blocks.moe import expert_losses

    with torch.inference_mode():
        images, texts = model.encode_image(asked.pixels), model.encode_text(model.tokenizer(asked.captions))
    shares = [float(expert_losses(side.extra["experts"])["top_share"]) for side in (images, texts)]
    return sum(shares) / len(shares)
