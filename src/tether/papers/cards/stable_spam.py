"""SPAM and Stable-SPAM: spikes handled inside Adam, under simulated 4-bit arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from tether.core.protocols import GradClipper
    from tether.papers.reproduction.lab import Lab
    from tether.papers.testbeds.char_lm_spikes import SpikeRun

STEPS, LEARNING_RATE, BETAS = 300, 4e-3, (0.9, 0.999)
RESET_INTERVAL = 100

CARD = Card(
    slug="stable-spam",
    title="Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam",
    year=2025,
    arxiv="2502.17055",
    code="TianjinYellow/StableSPAM",
    package="optim",
    parts=(
        "tether.optim.stable_spam.StableSPAM",
        "tether.optim.stable_spam.ada_clip",
        "tether.optim.stable_spam.ada_norm",
        "tether.optim.spam.SPAM",
        "tether.compress.quantise.fake_quant.FakeQuant",
        "tether.compress.quantise.layers.FakeQuantLinear",
    ),
    needs=("gradients",),
    gives="Two optimisers that take spikes for themselves, and training as if weights and inputs had 4 bits.",
    claim=Claim(
        says="In simulated 4-bit training with planted bad batches and no clipper, SPAM and Stable-SPAM both end far "
        "below Adam.",
        metric="validation cross-entropy, nats per character",
        better="lower",
        margin=0.5,
        baseline="Adam at the same learning rate, without a clipper; ours is the worse of SPAM and Stable-SPAM",
        scale=f"character model of 0.1 M parameters with INT4 linear layers, {STEPS} steps, five planted bad batches",
    ),
    differences=(
        "Every counter is saved with the state; the released StableSPAM forgets its number of calls and its cosine.",
        "A tensor whose gradient is not finite is left alone, state and all; in the released code it is NaN for good.",
        "reset_mode='clean' does what the text says: moments emptied before they are used, other counters left alone.",
        "SPAM's cap begins for a late parameter when that has had its own first steps; sparse momentum is left out.",
        "Adam behind a plain limit on the global norm is run beside them; it ended as low when this claim was chosen.",
        "That 4-bit training beats 16-bit Adam is a claim about large language models and is not tried here.",
    ),
    minutes=6.0,
    guide="stability.md",
    authors=("Huang", "Hu", "Zhang", "Jin", "Li", "Shen", "Chen", "Liu", "Wen", "Wang", "Liu"),
)

Make = Callable[[list[dict[str, Any]]], "Optimizer"]


def reproduce(lab: Lab) -> Trial:
    """Train with each optimiser among bad batches; for the notes, Adam behind a plain clipper, and all without any."""
    from tether.optim.clip import GlobalNorm, NoClip

    makers = optimizers()
    runs = {name: trained(lab, make, NoClip()) for name, make in makers.items()}
    runs["adam_clipped"] = trained(lab, makers["adam"], GlobalNorm(1.0))
    calm = {name: trained(lab, make, NoClip(), planted={}) for name, make in makers.items()}
    notes = {f"validation_{name}": run.validation for name, run in runs.items()}
    notes |= {f"excess_{name}": run.excess for name, run in runs.items()}
    notes |= {f"validation_without_bad_batches_{name}": run.validation for name, run in calm.items()}
    return Trial(runs["adam"].validation, max(runs["spam"].validation, runs["stable_spam"].validation), notes)


def optimizers() -> Mapping[str, Make]:
    """The three, with the settings of each that a run of this length needs; weight decay is the bench's."""
    from tether.optim import SPAM, AdamW, StableSPAM

    return {
        "adam": functools.partial(AdamW, lr=LEARNING_RATE, betas=BETAS, eps=1e-8),
        "spam": functools.partial(
            SPAM, lr=LEARNING_RATE, betas=BETAS, threshold=50.0, reset_interval=RESET_INTERVAL, warmup_steps=20
        ),
        "stable_spam": functools.partial(StableSPAM, lr=LEARNING_RATE, betas=BETAS, reset_interval=RESET_INTERVAL),
    }


def trained(lab: Lab, make: Make, clipper: GradClipper, *, planted: Mapping[int, float] | None = None) -> SpikeRun:
    """One run of the character model with INT4 layers; ``planted`` is the bench's own unless given."""
    from tether.compress.quantise import FakeQuant
    from tether.papers.testbeds import char_lm_spikes

    return char_lm_spikes.train(
        clipper,
        seed=lab.seed,
        steps=lab.steps(STEPS, 2),
        planted=char_lm_spikes.PLANTED if planted is None else planted,
        optimizer=make,
        edit=FakeQuant(scheme="int4").apply_,
        validation=lab.steps(char_lm_spikes.VALIDATION_BATCHES, 1),
    )
