"""HybridNorm: normalised queries, keys and values, and a feed-forward net that starts from a norm, skip and all."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab
    from tether.papers.testbeds.char_lm import CharStepReport

STEPS, JUDGED = 300, range(140, 160)
"""Steps of a run, and those in its middle over which the ratio is averaged."""

CARD = Card(
    slug="hybridnorm",
    title="HybridNorm: Towards Stable and Efficient Transformer Training via Hybrid Normalization",
    year=2025,
    arxiv="2503.04598",
    code="BryceZhuo/HybridNorm",
    package="models",
    parts=(
        "tether.models.blocks.presets.hybridnorm",
        "tether.models.blocks.presets.hybridnorm_star",
        "tether.models.blocks.block.TransformerBlock",
    ),
    needs=("a model trained from the start",),
    gives="Blocks whose gradients stay of one size over depth, between pre-norm and post-norm.",
    claim=Claim(
        says="With HybridNorm the gradients of the first and the last block are closer in size than with pre-norm.",
        metric="absolute log of the ratio of feed-forward gradient norms, first block to last, mid-training",
        better="lower",
        margin=0.45,
        baseline="pre-norm blocks with the same RMS norms, start, batches and learning rate",
        scale=f"character model of 6 layers and width 64, {STEPS} steps, learning rate 0.003, the paper's start",
    ),
    differences=(
        "The norm before the feed-forward net, whose skip is taken from the normalised value, is written as a norm "
        "after the attention's sum; the official blocks give the same values and gradients.",
        "The block's other options stay CLIP's (GELU, biases, learned places); the paper's SwiGLU and rotary positions "
        "are options on top.",
        "Gains and scales of norms get no weight decay; the paper's runs decay them too.",
        "The paper's lower losses at 0.5 to 7 B parameters are out of reach here; losses are reported without a mark.",
    ),
    minutes=7.0,
    guide="architectures.md",
    authors=("Zhuo", "Zeng", "Wang", "Zhang", "Yang", "Li", "Zhou", "Ma"),
)


def reproduce(lab: Lab) -> Trial:
    """Train each arrangement; for the notes also post-norm, HybridNorm* and CLIP's start instead of the paper's."""
    width = 64
    paper = math.sqrt(2 / (5 * width))  # the released code's full_megatron start
    pre, hybrid, star, post = (
        train(lab, preset=preset, weight_std=paper, embedding_std=paper, steps=STEPS)
        for preset in ("prenorm", "hybridnorm", "hybridnorm*", "postnorm")
    )
    clip_pre, clip_hybrid = (
        train(lab, preset=preset, weight_std=None, embedding_std=0.02, steps=JUDGED.stop)
        for preset in ("prenorm", "hybridnorm")
    )
    return Trial(
        abs(pre[0]),
        abs(hybrid[0]),
        {
            "share_of_prenorm": abs(hybrid[0]) / max(abs(pre[0]), 1e-9),
            "log_ratio_prenorm": pre[0],
            "log_ratio_hybridnorm": hybrid[0],
            "log_ratio_hybridnorm_star": star[0],
            "log_ratio_postnorm": post[0],
            "log_ratio_prenorm_clip_start": clip_pre[0],
            "log_ratio_hybridnorm_clip_start": clip_hybrid[0],
            "validation_prenorm": pre[1],
            "validation_hybridnorm": hybrid[1],
            "validation_hybridnorm_star": star[1],
            "validation_postnorm": post[1],
        },
    )


def train(lab: Lab, *, preset: str, weight_std: float | None, embedding_std: float, steps: int) -> tuple[float, float]:
    """The mean log ratio of gradient norms in the middle of a run, and the validation loss at its end."""
    from tether.models.blocks.presets import BlockPreset
    from tether.papers.testbeds import char_lm

    model = char_lm.CharModel(
        char_lm.alphabet_size(),
        blocks=BlockPreset(preset, {"norm": "rms"}),
        weight_std=weight_std,
        embedding_std=embedding_std,
        seed=lab.seed,
    )
    ratios: list[float] = []

    def look(report: CharStepReport) -> None:
        if lab.smoke or report.step in JUDGED:
            ratios.append(log_ratio(report))

    done = char_lm.train(
        model,
        seed=lab.seed,
        steps=lab.steps(steps, 2),
        batch=lab.steps(char_lm.BATCH, 4),
        validation=lab.steps(20, 1),
        on_step=look,
    )
    return statistics.fmean(ratios), done.validation


def log_ratio(report: CharStepReport) -> float:
    """Log of the norm of the first block's feed-forward gradients over that of the last's."""
    squares = [
        sum(
            float(layer.weight.grad.square().sum()) for layer in (block.up, block.down) if layer.weight.grad is not None
        )
        for block in (report.model.stack[0], report.model.stack[-1])
    ]
    return 0.5 * math.log(squares[0] / squares[1])
