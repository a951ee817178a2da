"""SPAM and Stable-SPAM: spikes handled inside Adam, under simulated 4-bit arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from tether.core.protocols import GradClipper
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.char_lm_spikes import SpikeRun

STEPS, LEARNING_RATE, BETAS = 300, 4e-3, (0.9, 0.999)
RESET_INTERVAL = 100
OURS = {"spam": "SPAM", "stable_spam": "Stable-SPAM"}

CARD = Card.of(
    "stable-spam",
    claim=Claim(
        says="In simulated 4-bit training with planted bad batches Stable-SPAM ends below Adam behind a limit on the "
        "global norm; it and SPAM end far below Adam without one.",
        metric="validation cross-entropy, nats per character",
        better="lower",
        margin=0.03,
        baseline="Adam behind a limit of 1 on the global norm",
        scale=f"character model of 0.1 M parameters with INT4 linear layers, {STEPS} steps, five planted bad batches",
        equal=f"starting weights, batches, steps and the learning rate of {LEARNING_RATE:g}, nothing tuned but the "
        "interval between resets, which a run of this length needs",
        conditions=(
            *(
                Condition(
                    says=f"{name} ends at least 0.5 nats below Adam without a clipper.",
                    ours=f"validation_{key}",
                    than="validation_adam",
                    better="lower",
                    least=0.5,
                )
                for key, name in OURS.items()
            ),
            *(
                Condition(
                    says=f"The bad batches cost {name} at most a tenth of what they cost Adam without a clipper.",
                    ours=f"excess_{key}",
                    than="tenth_of_excess_adam",
                    better="lower",
                )
                for key, name in OURS.items()
            ),
            Condition(
                says="Without bad batches Stable-SPAM ends no higher than Adam behind the same limit.",
                ours="validation_without_bad_batches_stable_spam",
                than="validation_without_bad_batches_adam_clipped",
                better="lower",
            ),
        ),
    ),
    differences=(
        "Every counter is saved with the state; the released StableSPAM forgets its number of calls and its cosine.",
        "A tensor whose gradient is not finite is left alone, state and all; in the released code it is NaN for good.",
        "reset_mode='clean' does what the text says: moments emptied before they are used, other counters left alone.",
        "SPAM's cap begins for a late parameter when that has had its own first steps; sparse momentum is left out.",
        "That 4-bit training beats 16-bit Adam is a claim about large language models and is not tried here.",
    ),
    tried={
        "the worse of SPAM and Stable-SPAM against Adam without a clipper, which was the claim at first": (
            "2.15 nats against 2.92, seeds 0 to 2; Adam behind a limit of 1 ended at 1.93, Stable-SPAM at 2.04"
            " (on the text until 2026-12)"
        ),
    },
    minutes=9.0,
)

Make = Callable[[list[dict[str, Any]]], "Optimizer"]


def reproduce(lab: Lab) -> Trial:
    """Train with each optimiser and with clipped Adam, among bad batches and, for the notes, without any."""
    from tether.optim.clip import GlobalNorm, NoClip

    makers = optimizers()
    arms = {name: (make, NoClip) for name, make in makers.items()} | {"adam_clipped": (makers["adam"], GlobalNorm)}
    runs = {name: trained(lab, make, clipper()) for name, (make, clipper) in arms.items()}
    calm = {name: trained(lab, make, clipper(), planted={}) for name, (make, clipper) in arms.items()}
    notes = {f"validation_{name}": run.validation for name, run in runs.items()}
    notes |= {f"excess_{name}": run.excess for name, run in runs.items()}
    notes |= {f"validation_without_bad_batches_{name}": run.validation for name, run in calm.items()}
    notes["tenth_of_excess_adam"] = runs["adam"].excess / 10
    return Trial(runs["adam_clipped"].validation, runs["stable_spam"].validation, notes)


def optimizers() -> Mapping[str, Make]:
    """The three, with the settings of each that a run of this length needs; weight decay is the bench's."""
    from tether.methods.stable_spam import SPAM, StableSPAM
    from tether.optim import AdamW

    return {
        "adam": functools.partial(AdamW, lr=LEARNING_RATE, betas=BETAS, eps=1e-8),
        "spam": functools.partial(
            SPAM, lr=LEARNING_RATE, betas=BETAS, threshold=50.0, reset_interval=RESET_INTERVAL, warmup_steps=20
        ),
        "stable_spam": functools.partial(StableSPAM, lr=LEARNING_RATE, betas=BETAS, reset_interval=RESET_INTERVAL),
    }


def trained(lab: Lab, make: Make, clipper: GradClipper, *, planted: Mapping[int, float] | None = None) -> SpikeRun:
    """One run of the character model with INT4 layers; ``planted`` is the bench's own unless given."""
    from tether.methods.stable_spam import FourBits
    from tether_lab.worlds import char_lm_spikes

    return char_lm_spikes.train(
        clipper,
        seed=lab.seed,
        steps=lab.steps(STEPS, 2),
        planted=char_lm_spikes.PLANTED if planted is None else planted,
        optimizer=make,
        edit=FourBits(scheme="int4").apply_,
        validation=lab.steps(char_lm_spikes.VALIDATION_BATCHES, 1),
    )
