"""ENT: a token on which the model is sure of something else is probably noise, so it is not learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

NOISE, THRESHOLD, EPOCHS, LEARNING_RATE, START = 0.3, 1.1, 80, 0.05, 6
"""Digits: share of wrong labels, limit on the error norm, passes, step size, first epoch that drops anything."""
OTHER_THRESHOLDS, FRACTIONS = (1.0, 1.2, 1.3), (0.2, 0.3)
TEXT_NOISE, TEXT_STEPS, TEXT_START = 0.2, 240, 120
TEXT_THRESHOLDS, TEXT_FRACTION = (1.1, 1.2), 0.05
"""Characters: share of random targets, steps, first step that drops anything."""

CARD = Card(
    slug="ent",
    title="Error Norm Truncation: Robust Training in the Presence of Data Noise for Text Generation Models",
    year=2023,
    arxiv="2310.00840",
    venue="ICLR 2024",
    code="tianjianl/error_norm_truncation",
    authors=("Li", "Xu", "Koehn", "Khashabi", "Murray"),
    package="losses",
    parts=(
        "tether.losses.error_norm_truncation.ENTLoss",
        "tether.losses.error_norm_truncation.error_norm",
        "tether.losses.error_norm_truncation.CausalENT",
    ),
    needs=("targets, some of them wrong",),
    gives="A cross-entropy that leaves out the tokens which look like noise, for any sequence model or classifier.",
    claim=Claim(
        says="Where the right answer is nearly certain, dropping targets with an error norm above 1.1 keeps clean "
        "accuracy high although 30 % of the training labels are wrong.",
        metric="accuracy on clean held-out digits, mean of the last 10 epochs",
        better="higher",
        margin=0.1,
        baseline="cross-entropy on all targets, everything else equal",
        scale=f"scikit-learn digits as one-token answers, net 64-256-256-10, SGD {LEARNING_RATE}, {EPOCHS} epochs",
    ),
    differences=(
        "The token rule of the fairseq and T5 code is followed; the language-model script drops whole sequences.",
        "Nothing is dropped where nothing is trained: evaluation is without truncation.",
        "normalize='kept' divides by the tokens that were kept; the paper's code always counts the dropped ones too.",
        "One-token answers stand in for translation and summarisation; on characters of real text with random targets, "
        "where the right answer is uncertain, see the notes of the result.",
    ),
    minutes=4.0,
    guide="objectives.md",
)


def reproduce(lab: Lab) -> Trial:
    """Digits with wrong labels under several limits, then characters with random targets, where it should not help."""
    import functools

    import torch.nn.functional as F
    from torch import Tensor

    from tether.losses import ENTLoss
    from tether.papers.testbeds.noisy_digits import NoisyLoss, train

    def truncated(loss: ENTLoss) -> NoisyLoss:
        return lambda logits, labels, epoch: loss(logits, labels, step=epoch).loss

    def plain(logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(logits, labels)

    run = functools.partial(train, seed=lab.seed, noise=NOISE, epochs=lab.steps(EPOCHS), learning_rate=LEARNING_RATE)
    baseline, ours = run(plain), run(truncated(ENTLoss(threshold=THRESHOLD, start_step=START)))
    others = {
        f"threshold_{value:g}": run(truncated(ENTLoss(threshold=value, start_step=START))).accuracy
        for value in OTHER_THRESHOLDS
    } | {
        f"fraction_{value:g}": run(truncated(ENTLoss(fraction=value, start_step=START))).accuracy for value in FRACTIONS
    }
    return Trial(
        baseline.accuracy,
        ours.accuracy,
        {
            "memorised_plain": baseline.memorised,
            f"memorised_threshold_{THRESHOLD:g}": ours.memorised,
            **others,
            **characters(lab),
        },
    )


def characters(lab: Lab) -> dict[str, float]:
    """Clean validation loss in nats after training on text whose targets are in part random, by limit."""
    from tether.losses import ENTLoss
    from tether.papers.testbeds.noisy_text import train

    steps, start = lab.steps(TEXT_STEPS), lab.steps(TEXT_START, 1)
    limits = {
        "plain": ENTLoss(fraction=0.0),
        **{f"threshold_{value:g}": ENTLoss(threshold=value, start_step=start) for value in TEXT_THRESHOLDS},
        f"fraction_{TEXT_FRACTION:g}": ENTLoss(fraction=TEXT_FRACTION, start_step=start),
    }
    runs = {name: train(loss, seed=lab.seed, noise=TEXT_NOISE, steps=steps) for name, loss in limits.items()}
    return {f"text_{name}": run.validation for name, run in runs.items()} | {
        "text_auroc_error_norm": runs["plain"].auroc_error_norm,
        "text_auroc_low_probability": runs["plain"].auroc_low_probability,
    }
