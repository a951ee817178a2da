"""HybridNorm: normalised queries, keys and values, and a feed-forward net that starts from a norm, skip and all."""

from __future__ import annotations

import math

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

SHARE = 0.6

CARD = Card.of(
    "hybridnorm",
    claim=Claim(
        says="With HybridNorm the gradients of the first and the last block are closer in size than with pre-norm.",
        metric="absolute log of the ratio of feed-forward gradient norms, first block to last, mean of 20 steps in "
        "the middle of training",
        better="lower",
        margin=0.6,
        baseline="pre-norm blocks with the same RMS norms",
        scale="character model of 6 layers and width 64, 300 steps, the paper's start",
        equal="starting weights, batches, steps and the learning rate of 0.003; nothing is tuned",
        conditions=(
            Condition(
                says=f"It is at most {SHARE:g} of pre-norm's.",
                than="most_of_prenorm",
                better="lower",
            ),
            Condition(
                says="It is no larger than that of post-norm blocks.",
                than="unevenness_postnorm",
                better="lower",
            ),
            *(
                Condition(
                    says=f"The validation loss is no higher than with {name}.",
                    ours="validation_hybridnorm",
                    than=f"validation_{key}",
                    better="lower",
                )
                for key, name in (("prenorm", "pre-norm"), ("postnorm", "post-norm"))
            ),
        ),
    ),
    differences=(
        "The norm before the feed-forward net, whose skip is taken from the normalised value, is written as a norm "
        "after the attention's sum; the official blocks give the same values and gradients.",
        "The block's other options stay CLIP's (GELU, biases, learned places); the paper's SwiGLU and rotary positions "
        "are options on top.",
        "Gains and scales of norms get no weight decay; the paper's runs decay them too.",
        "The paper's lower losses are those of models of 0.5 to 7 B parameters.",
    ),
    tried={
        (
            "the absolute value of the mean log ratio, in which signs cancel, with a margin of 0.45 and no "
            "conditions, the claim at first"
        ): "0.07 against 1.57 with pre-norm, seeds 0 to 2 (on the text until 2026-12)",
        "HybridNorm*, whose first block is pre-norm, on the same bed": (
            "a log ratio of 0.71 against 1.57 with pre-norm, 1.850 nats against 1.835, seeds 0 to 2"
            " (on the text until 2026-12)"
        ),
        "CLIP's start in place of the paper's": (
            "log ratios of -3.22, -0.20 and 0.02 against 1.36, 1.31 and 1.35 with pre-norm, seeds 0 to 2"
            " (on the text until 2026-12)"
        ),
    },
    minutes=6.0,
)


def reproduce(lab: Lab) -> Trial:
    """Train each arrangement from the released code's start, full_megatron."""
    from tether.models.towers.blocks.presets import BlockPreset
    from tether_lab.worlds import char_lm, char_lm_depth

    std = math.sqrt(2 / (5 * char_lm.WIDTH))
    notes: dict[str, float] = {}
    for preset in ("prenorm", "hybridnorm", "postnorm"):
        model = char_lm.CharModel(
            char_lm.alphabet_size(),
            blocks=BlockPreset(preset, {"norm": "rms"}),
            weight_std=std,
            embedding_std=std,
            seed=lab.seed,
        )
        done = char_lm_depth.train(lab, model)
        notes |= {
            f"log_ratio_{preset}": done.log_ratio,
            f"unevenness_{preset}": done.unevenness,
            f"validation_{preset}": done.validation,
        }
    notes["most_of_prenorm"] = SHARE * notes["unevenness_prenorm"]
    return Trial(notes["unevenness_prenorm"], notes["unevenness_hybridnorm"], notes)
