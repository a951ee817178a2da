"""ZClip: gradient spikes are outliers of the norm's own history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

CARD = Card(
    slug="zclip",
    title="ZClip: Adaptive Spike Mitigation for LLM Pre-Training",
    year=2025,
    arxiv="2504.02507",
    code="bluorion-com/ZClip",
    package="optim",
    parts=("tether.optim.clip.zclip.ZClip",),
    needs=("gradients",),
    gives="A limit on the gradient norm that follows the run by itself and cuts the largest spikes hardest.",
    claim=Claim(
        says="When the gradients' scale is not what a constant limit was chosen for, ZClip still stops bad batches.",
        metric="validation cross-entropy, nats per character",
        better="lower",
        margin=0.2,
        baseline="one constant limit of 1 on the global norm, the usual default",
        scale="character model of 0.1 M parameters, 300 steps, loss times 0.01, five planted bad batches",
    ),
    differences=(
        "A step whose norm is not finite is skipped and not recorded; the released code's mean is NaN ever after.",
        "The state can be saved and resumed; the released code starts its warm-up again.",
        "Norms are added up in float64 whatever the model's precision; the released code takes its first parameter's.",
        "min_threshold_ratio, off by default, keeps the limit from dying away under a low clip_factor.",
        "The paper's language model of 1 B parameters is out of reach here.",
    ),
    minutes=3.0,
    guide="stability.md",
)


def reproduce(lab: Lab) -> Trial:
    """Train with a constant limit and with ZClip, at a hundredth of the loss and, for the notes, at its full size."""
    from tether.optim.clip import ZClip
    from tether.papers.testbeds.char_lm_spikes import limit_trial

    return limit_trial(ZClip, lab)
